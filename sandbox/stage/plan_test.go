package stage

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"liege/vassal"
)

func goodPlan() *Plan {
	return &Plan{
		Name: "shop", HookTime: 60, UID: 1000, GID: 1000, Groups: []int{1000}, Umask: 0o22,
		Seccomp: []Filter{{Code: 6, K: 0x7fff0000}}, Exec: "/.liege/liege-core", Args: []string{"liege-core shop"},
		Files: Donated{Listeners: 2, Mounts: 1},
		Hooks: []vassal.Hook{{Phase: vassal.AsRoot, Action: "mkdir", Arg: "/run/shop"}},
	}
}

func TestPlanRoundTrip(t *testing.T) {
	b, err := goodPlan().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(goodPlan(), got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A filter travels as the kernel takes it, and is bounded.
func TestProgram(t *testing.T) {
	text, err := Program{{Code: 0x15, Jt: 1, Jf: 2, K: 0xc000003e}, {Code: 6}}.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var got Program
	if err := got.UnmarshalText(text); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Program{{Code: 0x15, Jt: 1, Jf: 2, K: 0xc000003e}, {Code: 6}}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	long, err := make(Program, maxFilters+1).MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"AAAA", "?", string(long)} {
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%.8q is taken for a filter", bad)
		}
	}
}

func TestPlanCheck(t *testing.T) {
	for _, c := range []struct {
		name string
		harm func(*Plan)
		want string
	}{
		{"root's uid is not special", func(p *Plan) { p.UID = 0 }, ""},
		{"uid -1 means unchanged", func(p *Plan) { p.UID = -1 }, "uid -1"},
		{"uid 2^32-1 means unchanged", func(p *Plan) { p.UID = 1<<32 - 1 }, "uid 4294967295"},
		{"gid", func(p *Plan) { p.GID = -1 }, "gid -1"},
		{"group", func(p *Plan) { p.Groups = []int{1, -1} }, "group -1"},
		{"no filter", func(p *Plan) { p.Seccomp = nil }, "seccomp filter of 0"},
		{"no time", func(p *Plan) { p.HookTime = 0 }, "without a time limit"},
		{"score", func(p *Plan) { p.OOMScore = 1001 }, "oom_score_adj"},
		{"umask", func(p *Plan) { p.Umask = 0o1000 }, "umask"},
		{"context without own", func(p *Plan) { p.Context = "u:r:t:s0" }, "none of the stage's own"},
		{"hook's context without own", func(p *Plan) { p.HookCon = "u:r:t:s0" }, "none of the stage's own"},
		{"exec into no context", func(p *Plan) { p.ByExec = true }, "no context"},
		{"setcon where the context is entered by exec", func(p *Plan) {
			p.Own, p.Context, p.ByExec = "u:r:s:s0", "u:r:t:s0", true
			p.Hooks = []vassal.Hook{{Phase: vassal.AsUser, Action: "callret", Arg: "setcon u:r:t:s0"}}
		}, "no context to enter by it"},
		{"program", func(p *Plan) { p.Exec = "sh" }, "exec \"sh\""},
		{"directory", func(p *Plan) { p.Dir = "srv" }, "not absolute"},
		{"NUL", func(p *Plan) { p.Env = []string{"A=1\x00B=2"} }, "NUL"},
		{"mount", func(p *Plan) { p.Attach = []Attach{{Mount: 1, Target: "/srv"}} }, "mount 1"},
		{"mount on the root", func(p *Plan) { p.Attach = []Attach{{Mount: 0, Target: "//."}} }, "mount 0"},
		{"worker's limit", func(p *Plan) { p.Rlimits = []vassal.Rlimit{{Resource: "as", Value: 1}} }, "for workers"},
		{"phase", func(p *Plan) { p.Hooks[0].Phase = "asap" }, "phase"},
		{"action", func(p *Plan) { p.Hooks[0].Action = "rm" }, "unknown action"},
		{"names", func(p *Plan) { p.Hooks[0].Action, p.Hooks[0].Arg = "chown", "/srv www-data www-data" }, "names must be resolved"},
		{"numbers as names", func(p *Plan) { p.Hooks[0].Action, p.Hooks[0].Arg = "chown", "/srv 33 33" }, ""},
		{"setcon without context", func(p *Plan) {
			p.Hooks = []vassal.Hook{{Phase: vassal.AsUser, Action: "callret", Arg: "setcon u:r:t:s0"}}
		}, "no context"},
		{"hook after setcon", func(p *Plan) {
			p.Own, p.Context = "u:r:s:s0", "u:r:t:s0"
			p.Hooks = []vassal.Hook{{Phase: vassal.AsUser, Action: "callret", Arg: "setcon u:r:t:s0"}, {Phase: vassal.AsUser, Action: "print", Arg: "x"}}
		}, "after setcon"},
	} {
		p := goodPlan()
		c.harm(p)
		_, err := p.Encode()
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		// The other side must refuse by itself.
		if b, jerr := json.Marshal(p); jerr == nil && c.want != "" {
			if _, err := Decode(b); err == nil {
				t.Errorf("%s: accepted by the stage", c.name)
			}
		}
	}
}

func TestDonated(t *testing.T) {
	d := Donated{Listeners: 2, Mounts: 1}
	got := []int{d.Control(), d.App(), d.Plan(), d.Status(), d.Mount(0)}
	if diff := cmp.Diff([]int{5, 6, 7, 8, 9}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"liege-stage", "--plan", "7"}, Argv(d)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseFailure(t *testing.T) {
	p := goodPlan()
	p.Context, p.ByExec, p.Line = "u:r:t:s0", false, vassal.Origin{File: "shop.ini", Line: 4}
	for _, c := range []struct {
		packet string
		want   *Failure
	}{
		{`{"step":"exec","msg":"","errno":2}`, &Failure{Step: StepExec, What: p.Exec, Msg: "no such file or directory", Errno: 2}},
		{`{"step":"setcon","msg":"write","errno":13}`, &Failure{Step: StepSetcon, At: p.Line, What: p.Context, Msg: "write: permission denied", Errno: 13}},
		{`{"step":"hook as-root","at":{"file":"a.ini","line":3},"what":"hook-as-root = exec:x","msg":"exit status 1","output":"\u001b[2Jone\ntwo"}`,
			&Failure{Step: HookStep(vassal.AsRoot), At: vassal.Origin{File: "a.ini", Line: 3}, What: "hook-as-root = exec:x", Msg: "exit status 1", Output: "?[2Jone\ntwo"}},
		{`garbage`, &Failure{Step: StepExec, Msg: `the stage's report is unreadable: "garbage"`}},
		{`{}`, &Failure{Step: StepExec, Msg: `the stage's report is unreadable: "{}"`}},
		{strings.Repeat("x", MaxFailure+1), &Failure{Step: StepExec, Msg: "the stage's report is too long"}},
	} {
		if d := cmp.Diff(c.want, ParseFailure([]byte(c.packet), p)); d != "" {
			t.Errorf("%.40s (-want +got):\n%s", c.packet, d)
		}
	}
}

func TestParseFailureWithoutPlan(t *testing.T) {
	want := &Failure{Step: StepExec, Msg: "no such file or directory", Errno: 2}
	if d := cmp.Diff(want, ParseFailure([]byte(`{"step":"exec","msg":"","errno":2}`), nil)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// Whatever a failure holds, its report fits into a packet.
func TestReportFits(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	for _, unit := range []string{"x\n", "\x01", "\"", "é", "\xff"} {
		long := strings.Repeat(unit, 1<<16)
		report(fds[0], &Failure{Step: HookStep(vassal.AsRoot), At: vassal.Origin{File: long, Line: 1}, What: long, Msg: long, Output: long})
		buf := make([]byte, 1<<20)
		n, err := unix.Read(fds[1], buf)
		if err != nil || n == 0 || n > MaxFailure {
			t.Fatalf("%q: %d bytes, %v", unit, n, err)
		}
		if f := ParseFailure(buf[:n], nil); f.Step != HookStep(vassal.AsRoot) {
			t.Errorf("%q: %+v", unit, f)
		}
	}
}

func FuzzDecode(f *testing.F) {
	if b, err := goodPlan().Encode(); err == nil {
		f.Add(b)
	}
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"files":{"listeners":-1}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil {
			return
		}
		again, err := p.Encode()
		if err != nil {
			t.Fatalf("accepted, but does not encode: %v", err)
		}
		if _, err := Decode(again); err != nil {
			t.Fatalf("does not survive a round: %v", err)
		}
		if p.Files.Control() < FirstFD || p.UID < 0 || len(p.Seccomp) == 0 {
			t.Fatalf("accepted: %+v", p)
		}
	})
}

func FuzzParseFailure(f *testing.F) {
	f.Add([]byte(`{"step":"exec","msg":"","errno":2}`))
	f.Add([]byte(`{"step":"setcon","msg":"\u001b","errno":-1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s := ParseFailure(b, goodPlan()).Error(); strings.ContainsAny(s, "\x1b\x00\r") {
			t.Errorf("control characters in %q", s)
		}
	})
}
