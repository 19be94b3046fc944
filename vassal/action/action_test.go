package action

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/vassal"
)

func TestParse(t *testing.T) {
	root, user := vassal.AsRoot, vassal.AsUser
	for _, c := range []struct {
		phase  vassal.Phase
		action string
		arg    string
		want   Call
		err    string
	}{
		{root, "exec", " echo a b ", Call{Kind: Exec, Text: "echo a b"}, ""},
		{root, "exec", "  ", Call{}, "want exec:COMMAND"},
		{user, "write", "/run/x two words ", Call{Kind: Write, Path: "/run/x", Text: "two words "}, ""},
		{user, "write", "/run/x", Call{}, "want write:FILE TEXT"},
		{user, "writen", "/run/x", Call{Kind: Writen, Path: "/run/x"}, ""},
		{root, "mkdir", "/srv/a b", Call{Kind: Mkdir, Path: "/srv/a b"}, ""},
		{root, "mkdir", "", Call{}, "want mkdir:DIR"},
		{root, "chown", "/srv www-data 33", Call{Kind: Chown, Path: "/srv", User: "www-data", Group: "33", UID: -1, GID: 33}, ""},
		{root, "chown2", "/srv 33 33", Call{Kind: Chown2, Path: "/srv", User: "33", Group: "33", UID: 33, GID: 33}, ""},
		{root, "chown2", "/srv www-data 33", Call{}, "use chown for names"},
		{root, "chown2", "/srv 4294967295 33", Call{}, "numbers"},
		{root, "chown", "/srv www-data", Call{}, "want chown:FILE USER GROUP"},
		{user, "chown", "/srv a b", Call{}, "needs root"},
		{user, "chmod", "/srv 750", Call{Kind: Chmod, Path: "/srv", Mode: 0o750}, ""},
		{user, "chmod", "/srv 2750", Call{Kind: Chmod, Path: "/srv", Mode: 0o2750}, ""}, // uWSGI drops the 2
		{user, "chmod", "/srv 12750", Call{}, "octal"},
		{user, "chmod", "/srv 0o750", Call{}, "octal"},
		{user, "chmod", "/srv 789", Call{}, "octal"},
		{user, "chmod", "/srv -1", Call{}, "octal"},
		{root, "mount", "none /distros/x /ns bind,recursive,readonly", Call{Kind: Mount, FSType: "none", Source: "/distros/x", Path: "/ns", Flags: []string{"bind", "rec", "ro"}}, ""},
		{root, "mount", "tmpfs tmpfs /tmp defaults size=1m,mode=755", Call{Kind: Mount, FSType: "tmpfs", Source: "tmpfs", Path: "/tmp", Text: "size=1m,mode=755"}, ""},
		{root, "mount", "proc none /proc", Call{Kind: Mount, FSType: "proc", Source: "none", Path: "/proc"}, ""},
		{root, "mount", "proc none", Call{}, "want mount:"},
		{root, "mount", "none a /b bindd", Call{}, `unknown flag "bindd"`},
		{root, "mount", "none a /b bind,shared", Call{}, "never shared"},
		{user, "mount", "proc none /proc", Call{}, "use hook-as-root"},
		{root, "umount", "/old rec,detach", Call{Kind: Umount, Path: "/old", Flags: []string{"rec", "detach"}}, ""},
		{root, "umount", "/a /b c", Call{}, "want umount:"},
		{root, "hostname", "shop.example", Call{Kind: Hostname, Text: "shop.example"}, ""},
		{root, "hostname", strings.Repeat("x", 64), Call{}, "1 to 63"},
		{user, "chdir", "/srv", Call{Kind: Cd, Path: "/srv"}, ""},
		{user, "putenv", "A=b=c ", Call{Kind: Putenv, Text: "A=b=c "}, ""},
		{user, "putenv", "A", Call{}, "want putenv"},
		{user, "putenv", "=x", Call{}, "want putenv"},
		{user, "unlink", "/run/x", Call{Kind: Unlink, Path: "/run/x"}, ""},
		{user, "log", "hello", Call{Kind: Print, Text: "hello"}, ""},
		{user, "callret", "setcon system_u:system_r:webapp_t:s0", Call{Kind: Setcon, Text: "system_u:system_r:webapp_t:s0"}, ""},
		{user, "callret", "setexeccon x", Call{}, "symbols of libraries are not called; those that something is done for are chdir"},
		{user, "callret", "setcon", Call{}, "want callret:setcon"},
		{root, "callret", "setcon x", Call{}, "use hook-as-user"},
		{root, "safeexec", "false", Call{Kind: Safeexec, Text: "false", Ignored: true}, ""},
		{root, "alarm", "shop down", Call{}, "use hook-pre-app or a later one"},
		{vassal.Accepting, "alarm", "shop is  up", Call{Kind: Alarm, Path: "shop", Text: "is  up"}, ""},
		{vassal.Accepting, "alarm", "shop", Call{}, "want alarm:NAME TEXT"},
		{root, "create", "/run/a b", Call{Kind: Create, Path: "/run/a b"}, ""},
		{root, "creat", "/run/x", Call{Kind: Create, Path: "/run/x"}, ""},
		{root, "appendn", "/run/x", Call{Kind: Appendn, Path: "/run/x"}, ""},
		{root, "append", "/run/x", Call{}, "want append:FILE TEXT"},
		{root, "writefifo", "/run/x a b", Call{Kind: WriteFIFO, Path: "/run/x", Text: "a b"}, ""},
		{root, "sticky", "/run/x", Call{Kind: Sticky, Path: "/run/x"}, ""},
		{root, "wait_for_file", "/run/x", Call{Kind: WaitFile, Path: "/run/x"}, ""},
		{root, "exit", "7", Call{Kind: Exit, Code: 7}, ""},
		{root, "exit", "", Call{Kind: Exit}, ""},
		{root, "exit", "256", Call{}, "not an exit status"},
		{root, "exit", "-1", Call{}, "not an exit status"},
		{root, "rpc", "f a", Call{}, "use hook-post-app"},
		{vassal.PreApp, "rpc", "f a", Call{}, "use hook-post-app"},
		{vassal.PostApp, "rpc", "f a b", Call{Kind: RPC, Text: "f", Args: []string{"a", "b"}}, ""},
		{vassal.PostApp, "rpc", "f@10.0.0.1:3031 a", Call{}, "functions of other servers"},
		{vassal.PostApp, "mount", "proc none /proc", Call{}, "use hook-as-root"},
		{vassal.PostApp, "callint", "umask 18", Call{}, "use the option umask"},
		{vassal.AsUserAtexit, "exit", "1", Call{}, "nothing to end"},
		{vassal.AsEmperor, "putenv", "A=b", Call{}, "use the option env"},
		{vassal.AsEmperor, "mkdir", "/run/x", Call{Kind: Mkdir, Path: "/run/x"}, ""},
		{vassal.PreJail, "hostname", "x", Call{}, "use hook-as-root"},
		{vassal.PreJail, "mount", "none /a /b bind", Call{Kind: Mount, FSType: "none", Source: "/a", Path: "/b", Flags: []string{"bind"}}, ""},
		{"as-zerg", "exec", "true", Call{}, "unknown phase"},
		{root, "call", "chdir /srv", Call{Kind: Cd, Path: "/srv", Ignored: true}, ""},
		{root, "callret", "chdir /srv", Call{Kind: Cd, Path: "/srv"}, ""},
		{root, "callret", "sethostname shop", Call{Kind: Hostname, Text: "shop"}, ""},
		{user, "call", "setenv A b c", Call{Kind: Putenv, Text: "A=b c", Ignored: true}, ""},
		{user, "callret", "putenv A=b", Call{Kind: Putenv, Text: "A=b"}, ""},
		{root, "callint", "umask 18", Call{Kind: Umask, Mode: 0o022, Ignored: true}, ""},
		{root, "callintret", "umask 027", Call{Kind: Umask, Mode: 0o027}, ""},
		{root, "callint", "umask 01000", Call{}, "not a mask"},
		{root, "call", "umask 18", Call{}, "want callint:umask MASK"},
		{root, "callint", "chdir 3", Call{}, "want call:chdir DIR"},
		{root, "call", "abort", Call{}, "symbols of libraries are not called"},
		{root, "explode", "", Call{}, `unknown action "explode"; the actions are exec`},
		{root, "exec", "a\x00b", Call{}, "NUL"},
		{root, "exec", strings.Repeat("x", MaxArg+1), Call{}, "at most"},
	} {
		got, err := Parse(vassal.Hook{Phase: c.phase, Action: c.action, Arg: c.arg})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s:%.40s: %v, want %q", c.action, c.arg, err, c.err)
			}
			continue
		}
		if c.want.Kind != Chown && c.want.Kind != Chown2 {
			c.want.UID, c.want.GID = -1, -1
		}
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%s:%s: %v (-want +got):\n%s", c.action, c.arg, err, d)
		}
	}
}

func TestPrivate(t *testing.T) {
	err := Check(vassal.Hook{Phase: vassal.AsRoot, Action: "chmod", Arg: "/secret/path 9", Private: true})
	if err == nil || strings.Contains(err.Error(), "9") || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

func TestWithIDs(t *testing.T) {
	h := vassal.Hook{Phase: vassal.AsRoot, Action: "chown", Arg: "/srv  www-data www-data", At: vassal.Origin{Line: 3}}
	got, err := WithIDs(h, 33, 34)
	want := vassal.Hook{Phase: vassal.AsRoot, Action: "chown2", Arg: "/srv 33 34", At: vassal.Origin{Line: 3}}
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if _, err := WithIDs(vassal.Hook{Phase: vassal.AsRoot, Action: "exec", Arg: "x"}, 1, 1); err == nil {
		t.Error("exec got ids")
	}
}

// Every action has a usage line and is refused or accepted, never forgotten.
func TestKinds(t *testing.T) {
	for _, k := range Kinds() {
		if usage[k] == "" {
			t.Errorf("%s has no usage", k)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, k := range Kinds() {
		f.Add(string(k), "/a b c bind,ro x=y", true)
		f.Add(string(k), "", false)
	}
	f.Fuzz(func(t *testing.T, name, arg string, root bool) {
		h := vassal.Hook{Phase: vassal.AsUser, Action: name, Arg: arg}
		if root {
			h.Phase = vassal.AsRoot
		}
		c, err := Parse(h)
		if err != nil {
			if c.Kind != "" {
				t.Errorf("an error and a call: %+v", c)
			}
			return
		}
		if c.Mode > 0o7777 || strings.ContainsRune(c.Path+c.Text, 0) {
			t.Errorf("accepted %+v", c)
		}
		switch c.Kind {
		case Exec, Safeexec, Putenv, Print, Hostname, Setcon, WaitSocket, RPC, RetryRPC, Exit, Umask:
		default:
			if c.Path == "" {
				t.Errorf("accepted without path: %+v", c)
			}
		}
	})
}

// What a private call names is not quoted either.
func TestPrivateFunction(t *testing.T) {
	err := Check(vassal.Hook{Phase: vassal.AsRoot, Action: "call", Arg: "secret x", Private: true})
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("got %v", err)
	}
}

// The manual has every action, written as in the messages, every function and
// every phase.
func TestManual(t *testing.T) {
	text, err := os.ReadFile("../../docs/hooks.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range Kinds() {
		if !strings.Contains(string(text), "\n| `"+usage[k]+"` |") {
			t.Errorf("docs/hooks.md has no row for %s", usage[k])
		}
	}
	for _, f := range Functions() {
		if !strings.Contains(string(text), "`"+f.Name+" "+f.Arg+"`") {
			t.Errorf("docs/hooks.md does not name the function %s", f.Name)
		}
	}
	for _, p := range vassal.Phases() {
		if !strings.Contains(string(text), "\n| `"+string(p)+"` |") {
			t.Errorf("docs/hooks.md has no row for the phase %s", p)
		}
	}
	for flag, spelling := range mountFlags {
		if flag == spelling && !regexp.MustCompile("`mount:.*flags: .*\\b"+flag+"\\b").Match(text) && flag != "relatime" {
			t.Errorf("docs/hooks.md does not name the flag %s", flag)
		}
	}
}
