package policy

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/vassal"
)

// apps are modules for two apps and one for many tenants.
func apps(t *testing.T) []Module {
	t.Helper()
	return []Module{
		module(t, App{ID: "foo", Ports: []int{8071}, Allow: []string{"db", "dns", "http-out", "ldap", "local", "smtp"}, Paths: []Path{{"/srv/foo", ReadWrite}}}),
		module(t, App{ID: "bar", Paths: []Path{{"/srv/bar", ReadOnly}, {"/srv/bar/log", Log}}}),
		module(t, App{ID: "shared", MCS: true, Paths: []Path{{"/srv/shared", ReadWrite}}}),
	}
}

// with is a module with more text, as an operator would add it.
func with(m Module, text string) Module {
	m.CIL = append(append([]byte{}, m.CIL...), text+"\n"...)
	return m
}

// TestDebian: base module and apps compile with Debian's policy, and hold what
// they assert against all of it.
func TestDebian(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Semodule, testenv.DebPolicy)
	s := open(t, "/")
	if err := s.Check(t.Context(), append(apps(t), Base())...); err != nil {
		t.Fatal(err)
	}
}

// TestMinimal: with a policy that has none of the types that only some
// distributions have, the same modules compile.
func TestMinimal(t *testing.T) {
	s := small(t, t.TempDir())
	if err := s.Check(t.Context(), append(apps(t)[:2], Base())...); err != nil {
		t.Fatal(err)
	}
}

// TestFedora: they compile too, and hold what they assert, where every domain
// has what Fedora gives to all.
func TestFedora(t *testing.T) {
	s := small(t, t.TempDir())
	tool(t, "semodule", "-N", "-p", s.cfg.Root, "-s", s.kind, "-X", "100", "-i", "testdata/fedora.cil")
	if err := s.Check(t.Context(), append(apps(t), Base())...); err != nil {
		t.Fatal(err)
	}
	withBase(t, s)
	if err := s.Install(t.Context(), apps(t)[0]); err != nil {
		t.Error(err)
	}
}

// TestAssertions: a rule that breaks the separation is refused, with the line it
// stands in, wherever it stands.
func TestAssertions(t *testing.T) {
	s := small(t, t.TempDir())
	rules := []string{
		"(allow webapp_foo_t webapp_bar_content_t (file (read)))",
		"(allow webapp_foo_t webapp_bar_log_t (fifo_file (write)))",
		"(allow webapp_foo_t webapp_bar_tmp_t (dir (search)))",
		"(allow webapp_foo_t webapp_tmp_t (file (read)))",
		"(allow webapp_t webapp_foo_rw_t (file (getattr)))",
		"(allow webapp_foo_t webapp_bar_t (process (signal)))",
		"(allow webapp_foo_t webapp_bar_t (process (ptrace)))",
		"(allow webapp_foo_t webapp_bar_t (unix_stream_socket (connectto)))",
		"(allow webapp_foo_t webapp_bar_t (tcp_socket (read)))",
		"(allow webapp_foo_t webapp_file (file (read)))",
		"(allow webapp_foo_t liege_stage_t (process (ptrace)))",
		"(allow webapp_foo_t liege_emperor_t (unix_stream_socket (connectto)))",
		"(allow webapp_foo_t liege_router_t (process (signal)))",
		"(allow webapp_foo_t liege_var_lib_t (file (read)))",
		"(allow webapp_foo_t liege_log_t (dir (search)))",
		"(allow webapp_foo_t liege_etc_t (file (read)))",
		"(allow webapp_foo_t liege_run_t (dir (search)))",
		"(allow webapp_foo_t liege_app_doc_t (file (open)))",
		"(allow webapp_foo_t liege_core_exec_t (file (write)))",
		"(allow webapp_foo_t liege_sandbox_etc_t (file (write)))",
		"(allow webapp_foo_t self (process (setcurrent)))",
		"(allow webapp_foo_t self (process (setexec)))",
		"(allow webapp_foo_t init_t (process (transition)))",
		"(allow webapp_foo_t file_t (file (entrypoint)))",
		"(allow webapp_foo_t file_t (file (relabelto)))",
		"(allow init_t webapp_foo_t (process (transition)))",
		"(allow init_t webapp_foo_t (process (dyntransition)))",
		"(allow liege_hook_t self (process (setcurrent)))",
		"(allow liege_hook_t self (process (setexec)))",
		"(allow liege_hook_t webapp_foo_t (process (dyntransition)))",
		"(allow liege_emperor_t self (process (setcurrent)))",
		"(allow liege_emperor_t webapp_foo_t (process (transition)))",
		"(allow liege_stage_t init_t (process (dyntransition)))",
		"(allow liege_stage_t liege_emperor_t (process (dyntransition)))",
	}
	foo := apps(t)[0]
	first := strings.Count(string(foo.CIL), "\n") + 1
	foo = with(foo, strings.Join(rules, "\n"))
	err := s.Check(t.Context(), foo, apps(t)[1])
	ps, _ := errors.AsType[vassal.Problems](err)
	for i, rule := range rules {
		found := false
		for _, p := range ps {
			found = found || p.Code == vassal.CodeAssertion && p.File == foo.CILFile && p.Line == first+i && strings.HasPrefix(p.Message, rule)
		}
		if !found {
			t.Errorf("not refused at line %d: %s", first+i, rule)
		}
	}
	if t.Failed() {
		t.Logf("%v", err)
	}
}

// TestPermissiveDomain: a module that would have nothing enforced is refused.
func TestPermissiveDomain(t *testing.T) {
	s := small(t, t.TempDir())
	foo := apps(t)[0]
	last := strings.Count(string(foo.CIL), "\n") + 1
	foo = with(foo, "(typepermissive webapp_foo_t)")
	ps, _ := errors.AsType[vassal.Problems](s.Check(t.Context(), foo))
	if len(ps) != 1 || ps[0].Code != vassal.CodeAssertion || ps[0].Line != last || ps[0].File != foo.CILFile {
		t.Errorf("line %d: %v", last, ps)
	}
}

// TestAssertionsElsewhere: it does not help to leave the assertions out, nor to
// write the rule into a module that is none of ours.
func TestAssertionsElsewhere(t *testing.T) {
	s := small(t, t.TempDir())
	rule := "(allow webapp_foo_t webapp_bar_content_t (file (read)))"
	bare := func(m Module) Module {
		before, _, ok := strings.Cut(string(m.CIL), "; ---- Assertions")
		if !ok {
			t.Fatal("the module has no assertions to leave out")
		}
		m.CIL = []byte(before)
		return m
	}
	foo, bar := bare(apps(t)[0]), bare(apps(t)[1])
	if err := s.Check(t.Context(), foo, bar); err != nil {
		t.Fatalf("without the rule: %v", err)
	}
	err := s.Check(t.Context(), with(foo, rule), bar)
	if ps, ok := errors.AsType[vassal.Problems](err); !ok || ps[0].Code != vassal.CodeAssertion || !strings.Contains(ps[0].Message, rule) {
		t.Errorf("without assertions in the modules: %v", err)
	}
	// semodule takes it: expand-check is off.
	extra := filepath.Join(t.TempDir(), "extra.cil")
	if err := s.Install(t.Context(), apps(t)[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(extra, []byte("(optional extra (allow webapp_foo_t webapp_bar_content_t (file (read))))\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "semodule", "-N", "-p", s.cfg.Root, "-s", s.kind, "-i", extra)
	err = s.Install(t.Context(), apps(t)[1])
	if ps, ok := errors.AsType[vassal.Problems](err); !ok || ps[0].Code != vassal.CodeAssertion || ps[0].File != "module extra of the installed policy" || ps[0].Line != 1 {
		t.Errorf("with the rule in another module: %v", err)
	}
	if have, err := s.has("webapp_bar"); have || err != nil {
		t.Errorf("it is installed all the same (%v)", err)
	}
}

// TestForeign: a policy of another hand, that calls its domains as Liege does,
// gets on with ours: its domains can be entered, its Emperor may do what it did,
// and no assertion about our apps is weaker for it.
func TestForeign(t *testing.T) {
	s := small(t, t.TempDir())
	foreign := filepath.Join(t.TempDir(), "webapp.cil")
	text := `(typeattribute webapp_domain)
(type webapp_cms_t)
(type webapp_cms_exec_t)
(type webapp_emperor_t)
(roletype system_r webapp_cms_t)
(roletype system_r webapp_emperor_t)
(roletype object_r webapp_cms_exec_t)
(typeattributeset domain (webapp_cms_t webapp_emperor_t))
(typeattributeset file_type (webapp_cms_exec_t))
(typeattributeset webapp_domain (webapp_cms_t webapp_emperor_t))
(allow webapp_cms_t webapp_cms_exec_t (file (entrypoint execute)))
(allow init_t webapp_cms_t (process (transition)))
(allow webapp_emperor_t self (process (setcurrent)))
(allow webapp_emperor_t webapp_cms_t (process (dyntransition sigkill)))
`
	if err := os.WriteFile(foreign, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	tool(t, "semodule", "-N", "-p", s.cfg.Root, "-s", s.kind, "-i", foreign)
	foo := apps(t)[0]
	if err := s.Check(t.Context(), foo); err != nil {
		t.Errorf("beside it: %v", err)
	}
	for rule, want := range map[string]bool{
		"(neverallow liege_stage_t webapp_cms_t (process (dyntransition)))": true, // it can be entered
		"(neverallow liege_stage_t init_t (process (dyntransition)))":       false,
		"(allow webapp_cms_t webapp_foo_rw_t (file (read)))":                true,
		"(allow webapp_foo_t webapp_cms_t (process (sigkill)))":             true,
		"(allow webapp_emperor_t webapp_foo_t (process (dyntransition)))":   true,
		"(allow webapp_cms_t webapp_cms_exec_t (file (write)))":             false,
	} {
		err := s.Check(t.Context(), with(foo, rule))
		if ps, ok := errors.AsType[vassal.Problems](err); ok != want || ok && ps[0].Code != vassal.CodeAssertion {
			t.Errorf("%s: %v", rule, err)
		}
	}
	err := s.Check(t.Context(), module(t, App{ID: "cms"}))
	if ps, ok := errors.AsType[vassal.Problems](err); !ok || !strings.Contains(ps[0].Message, "type webapp_cms_t: the module webapp has it already") {
		t.Errorf("an app of the same name: %v", err)
	}
}

// TestBroken: a module that does not compile is refused with its line.
func TestBroken(t *testing.T) {
	s := small(t, t.TempDir())
	foo := apps(t)[0]
	end := strings.Count(string(foo.CIL), "\n")
	taken := filepath.Join(t.TempDir(), "taken.cil")
	if err := os.WriteFile(taken, []byte("(portcon tcp 8071 (system_u object_r file_t ((s0) (s0))))\n(portcon tcp (8000 9000) (system_u object_r home_t ((s0) (s0))))\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	fc := func(text string) Module {
		m := foo
		m.FC = []byte(text)
		return m
	}
	for _, c := range []struct {
		name      string
		m         Module
		file      string
		line      int
		want      string
		installed string
	}{
		{name: "open", m: with(foo, "(allow webapp_foo_t"), file: foo.CILFile, line: end + 1, want: "Open parenthesis"},
		{name: "close", m: with(foo, "(allow webapp_foo_t self (file (read))))"), file: foo.CILFile, line: end + 1, want: "Close parenthesis"},
		{name: "no such type", m: with(foo, "\n(allow webapp_foo_t nosuch_t (file (read)))"), file: foo.CILFile, line: end + 2, want: "(allow webapp_foo_t nosuch_t (file (read)))"},
		{name: "no such permission", m: with(foo, "(allow webapp_foo_t self (file (fly)))"), file: foo.CILFile, line: end + 1, want: "Failed to resolve permission fly"},
		{name: "no such word", m: with(foo, "(alow webapp_foo_t self (file (read)))"), file: foo.CILFile, line: end + 1, want: "alow: CIL has no such word"},
		{name: "too few words", m: with(foo, "(allow webapp_foo_t)"), file: foo.CILFile, line: end + 1, want: "Bad allow rule"},
		{name: "twice", m: with(foo, "(class file (x))"), file: foo.CILFile, line: end + 1, want: "Previous declaration of class"},
		{name: "not text", m: with(foo, "\x00\xff("), want: ""},
		{name: "fc, no such type", m: fc("# one\n/srv/foo system_u:object_r:nosuch_t:s0\n"), file: foo.FCFile, line: 2, want: "nosuch_t"},
		{name: "fc, no such level", m: fc("/srv/foo system_u:object_r:webapp_foo_rw_t:s7\n"), file: foo.FCFile, line: 1, want: "s7"},
		{name: "fc, no context", m: fc("\n\n/srv/foo x\n"), file: foo.FCFile, line: 3, want: "user:role:type:level"},
		{name: "port", m: foo, file: foo.CILFile, line: 1 + strings.Count(string(foo.CIL[:strings.Index(string(foo.CIL), "(portcon")]), "\n"), want: "port tcp 8071: it is file_t in the policy", installed: taken},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.installed != "" {
				tool(t, "semodule", "-N", "-p", s.cfg.Root, "-s", s.kind, "-i", c.installed)
			}
			before := state(t, s)
			err := s.Install(t.Context(), c.m)
			ps := vassal.AsProblems(err, "", "")
			if len(ps) == 0 {
				t.Fatal("it compiles")
			}
			if p := ps[0]; c.file != "" && (p.File != c.file || p.Line != c.line) || !strings.Contains(p.Message, c.want) {
				t.Errorf("%s:%d: %s; want %s:%d: … %s", p.File, p.Line, p.Message, c.file, c.line, c.want)
			}
			if state(t, s) != before {
				t.Error("something was installed")
			}
		})
	}
}

// TestCategories: a module that relies on categories is refused where they mean
// nothing.
func TestCategories(t *testing.T) {
	s := small(t, t.TempDir())
	err := s.Check(t.Context(), apps(t)[2])
	if ps, ok := errors.AsType[vassal.Problems](err); !ok || ps[0].Code != vassal.CodeNoCategories || ps[0].Line == 0 {
		t.Errorf("a policy without the attribute: %v", err)
	}
	// The attribute alone does nothing: a constraint must use it.
	mcs := filepath.Join(t.TempDir(), "mcs.cil")
	install := func(text string) {
		t.Helper()
		if err := os.WriteFile(mcs, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		tool(t, "semodule", "-N", "-p", s.cfg.Root, "-s", s.kind, "-i", mcs)
	}
	install("(typeattribute mcs_constrained_type)\n")
	err = s.Check(t.Context(), apps(t)[2])
	if ps, ok := errors.AsType[vassal.Problems](err); !ok || ps[0].Code != vassal.CodeNoCategories {
		t.Errorf("a policy with an attribute that nothing uses: %v", err)
	}
	install("(typeattribute mcs_constrained_type)\n" +
		"(mlsconstrain (file (read)) (or (dom h1 h2) (neq t1 mcs_constrained_type)))\n" +
		"(mlsconstrain (process (signal)) (or (dom h1 h2) (neq t1 mcs_constrained_type)))\n")
	if err := s.Check(t.Context(), apps(t)[2]); err != nil {
		t.Errorf("a policy that constrains: %v", err)
	}
}
