package resolve

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/selinux"
	"liege/vassal"
)

// TestContext: what happens to a file that asks for a domain where SELinux is
// off is the operator's decision, and nothing else is forgiven.
func TestContext(t *testing.T) {
	type enter = func(string, bool) (string, error)
	off := func(string, bool) (string, error) { return "", selinux.ErrOff }
	permissive := func(c string, _ bool) (string, error) { return c, selinux.ErrPermissive }
	unknown := func(string, bool) (string, error) { return "", errors.New("the policy does not have it") }
	known := func(c string, _ bool) (string, error) { return c, nil }
	for _, tc := range []struct {
		name  string
		warn  bool
		enter enter
		want  []string
		in    bool
	}{
		{"off", false, off, []string{"error no-selinux"}, false},
		{"off, and that is fine", true, off, []string{"warning no-selinux"}, false},
		{"permissive", false, permissive, []string{"error no-selinux"}, false},
		{"permissive, and that is fine", true, permissive, []string{"warning no-selinux"}, true},
		{"not in the policy", true, unknown, []string{"error no-selinux"}, false},
		{"known", false, known, nil, true},
	} {
		for _, byHook := range []bool{true, false} {
			cfg := config()
			cfg.Ident.User, cfg.Ident.Context, cfg.Ident.ContextByHook = "sammy", fooContext, byHook
			r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, SELinux: SELinux{Enter: tc.enter, Warn: tc.warn}})
			if d := cmp.Diff(tc.want, codes(r.Problems)); d != "" {
				t.Errorf("%s: %s", tc.name, d)
			}
			if (r.Plan.Context != "") != tc.in || r.Plan.ByExec != (tc.in && !byHook) {
				t.Errorf("%s, by hook %v: the plan's context is %q, by exec %v", tc.name, byHook, r.Plan.Context, r.Plan.ByExec)
			}
		}
	}
}

const fooContext = "system_u:system_r:webapp_foo_t:s0"

// TestContextOfNone: a vassal that names no context gets the default of the
// policy, or what the operator's template makes.
func TestContextOfNone(t *testing.T) {
	enter := func(c string, byExec bool) (string, error) {
		switch {
		case !byExec:
			return "", errors.New("only by exec")
		case c == "":
			return "system_u:system_r:webapp_t:s0", nil
		}
		return c, nil
	}
	pairs := func(uid int) (string, error) { return fmt.Sprintf("c1,c%d", uid%1000), nil }
	for _, tc := range []struct{ name, template, want, problem string }{
		{"shop", "", "system_u:system_r:webapp_t:s0", ""},
		{"shop", "system_u:system_r:webapp_%n_t:s0", "system_u:system_r:webapp_shop_t:s0", ""},
		{"shop", "system_u:system_r:webapp_shared_t:s0:%c", "system_u:system_r:webapp_shared_t:s0:c1,c4", ""},
		{"my.shop", "system_u:system_r:webapp_%n_t:s0", "", "error no-selinux"},
	} {
		cfg := config()
		cfg.Name, cfg.Ident.User = vassal.Name(tc.name), "1004"
		r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, SELinux: SELinux{Enter: enter, Template: tc.template, Categories: pairs}})
		if r.Plan.Context != tc.want || tc.problem != strings.Join(codes(r.Problems), " ") {
			t.Errorf("%s with template %q: %q %v", tc.name, tc.template, r.Plan.Context, r.Problems)
		}
	}
}

// TestLabels: a path that the domain may not use is said, with its line.
func TestLabels(t *testing.T) {
	dir := t.TempDir()
	cfg := config()
	cfg.Ident.User, cfg.Ident.Context = "sammy", fooContext
	cfg.Jail.Binds = []vassal.Bind{{Source: dir, Target: dir, Key: "bind", At: vassal.Origin{Line: 7}}}
	host := SELinux{
		Enter: func(c string, _ bool) (string, error) { return c, nil },
		Label: func(string) (string, error) { return "system_u:object_r:user_home_t:s0", nil },
		Allows: func(_, to, class, _ string) (bool, error) {
			return selinux.Type(to) == "webapp_foo_content_t" && class == "dir", nil
		},
	}
	r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, SELinux: host})
	i := slices.IndexFunc(r.Problems, func(p vassal.Problem) bool { return p.Line == 7 && strings.Contains(p.Message, "user_home_t") })
	if i < 0 || r.Problems[i].Severity != vassal.Warning {
		t.Errorf("no warning: %v", r.Problems)
	}
	host.Label = func(string) (string, error) { return "system_u:object_r:webapp_foo_content_t:s0", nil }
	if r := Resolve(t.Context(), cfg, Host{FS: OS{}, Users: people{}, SELinux: host}); len(r.Problems) > 0 {
		t.Errorf("with the right label: %v", r.Problems)
	}
}

// TestPairs: every user has another pair, the same one each time, over a
// restart too, and no more are given out than there are.
func TestPairs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pairs.json")
	seen := map[string]int{}
	p := NewPairs(file, 0)
	for uid := 1000; uid < 1100; uid++ {
		got, err := p.Pair(uid)
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[got]; taken {
			t.Fatalf("uids %d and %d have both %s", other, uid, got)
		}
		seen[got] = uid
	}
	again := NewPairs(file, 0)
	for uid, want := range map[int]string{1000: "c0,c1", 1001: "c0,c2", 5000: "c0,c1"} {
		if got, err := NewPairs(file, 0).Look(uid); got != want || err != nil {
			t.Errorf("a look at uid %d: %s, %v; want %s", uid, got, err, want)
		}
	}
	if got, err := NewPairs(filepath.Join(file, "none"), 0).Look(1); got != "c0,c1" || err != nil {
		t.Errorf("a look where nothing can be read: %s, %v", got, err)
	}
	if text, err := os.ReadFile(file); err != nil || strings.Contains(string(text), "5000") {
		t.Errorf("a look has allotted a pair: %s, %v", text, err)
	}
	for pair, uid := range seen {
		if got, err := again.Pair(uid); got != pair || err != nil {
			t.Errorf("uid %d: %s, then %s, %v", uid, pair, got, err)
		}
	}
	for n, want := range map[int]string{1: "c0,c1", 1023: "c0,c1023", 1024: "c1,c2", MaxPairs: "c1022,c1023"} {
		if got, err := pair(n); got != want || err != nil {
			t.Errorf("pair %d: %s, %v, want %s", n, got, err, want)
		}
	}
	if got, err := pair(MaxPairs + 1); err == nil {
		t.Errorf("one more than there are: %s", got)
	}
}
