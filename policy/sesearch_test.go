package policy

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"liege/internal/testenv"
)

// compiled is the binary policy of Debian's modules, ours and more rules,
// compiled without the assertions.
func compiled(t *testing.T, more string) string {
	t.Helper()
	testenv.Need(t, testenv.Root, testenv.Semodule, testenv.DebPolicy, testenv.Setools)
	c := compilation{dir: t.TempDir(), from: map[string]source{}}
	modules := append(apps(t), Base())
	modules[0] = with(modules[0], more)
	if err := c.add(open(t, "/"), modules); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(c.dir, "policy.33")
	tool(t, "secilc", append([]string{"-N", "-m", "-c", "33", "-o", out, "-f", out + ".fc"}, c.files...)...)
	return out
}

// sources are the types that rules of an answer of sesearch begin with.
var allowRule = regexp.MustCompile(`(?m)^allow (\S+) (\S+):`)

func search(t *testing.T, policy string, args ...string) []string {
	t.Helper()
	var rules []string
	for line := range strings.Lines(tool(t, "sesearch", append([]string{policy, "-A"}, args...)...)) {
		if allowRule.MatchString(line) {
			rules = append(rules, strings.TrimSpace(line))
		}
	}
	return rules
}

// TestSesearch is a second proof, by another program and from the compiled
// policy: no rule of all of Debian's policy with ours lets an app reach another
// one's types, and only the stage enters an app's domain.
func TestSesearch(t *testing.T) {
	policy := compiled(t, "")
	for _, c := range []struct {
		name string
		args []string
		but  string // a rule that begins so is right
	}{
		{"foo to bar", []string{"-s", "webapp_foo_t", "-rt", "-t", "^webapp_bar_"}, ""},
		{"bar to foo", []string{"-s", "webapp_bar_t", "-rt", "-t", "^webapp_foo_"}, ""},
		{"the default domain to both", []string{"-s", "webapp_t", "-rt", "-t", "^webapp_(foo|bar)_"}, ""},
		{"both to the default domain", []string{"-rs", "-s", "^webapp_(foo|bar)_t$", "-rt", "-t", "^webapp_(t|tmp_t|log_t)$"}, ""},
		{"apps to shadow", []string{"-rs", "-s", "^webapp_(foo|bar|shared)?_?t$", "-t", "shadow_t"}, ""},
		{"Liege to shadow", []string{"-rs", "-s", "^liege_", "-t", "shadow_t", "-c", "file"}, ""},
		{"apps to the Emperor's state", []string{"-rs", "-s", "^webapp_(foo|bar|shared)?_?t$", "-rt", "-t", "^liege_(etc|var_lib|log)_t$"}, ""},
		{"apps to the Emperor's processes", []string{"-rs", "-s", "^webapp_(foo|bar|shared)?_?t$", "-rt", "-t", "^liege_(emperor|stage|hook|router)_t$", "-c", "process", "-p", "ptrace,signal,sigkill,sigstop"}, ""},
		{"who enters by exec", []string{"-t", "webapp_foo_t", "-c", "process", "-p", "transition"}, "allow liege_stage_t "},
		{"who enters by setcon", []string{"-t", "webapp_foo_t", "-c", "process", "-p", "dyntransition"}, "allow liege_stage_t "},
		{"whom the stage enters by setcon", []string{"-s", "liege_stage_t", "-c", "process", "-p", "dyntransition"}, "allow liege_stage_t liege_confined:"},
		{"who of ours may use setcon", []string{"-rs", "-s", "^(liege|webapp)_", "-c", "process", "-p", "setcurrent"}, "allow liege_stage_t liege_stage_t:"},
		{"where apps go", []string{"-rs", "-s", "^webapp_(foo|bar|shared)?_?t$", "-c", "process", "-p", "transition,dyntransition"}, ""},
		{"entry points", []string{"-s", "webapp_foo_t", "-c", "file", "-p", "entrypoint"}, "allow liege_confined liege_core_exec_t:"},
	} {
		bad := slices.DeleteFunc(search(t, policy, c.args...), func(r string) bool { return c.but != "" && strings.HasPrefix(r, c.but) })
		if len(bad) > 0 {
			t.Errorf("%s:\n%s", c.name, strings.Join(bad, "\n"))
		}
	}
	if len(search(t, policy, "-s", "liege_stage_t", "-t", "webapp_foo_t", "-c", "process", "-p", "dyntransition,transition")) != 1 {
		t.Error("the stage does not enter the domain either")
	}
}

// TestSesearchSees is the negative control: the same questions find the rule,
// if there is one, also behind attributes.
func TestSesearchSees(t *testing.T) {
	policy := compiled(t, "(allow webapp_foo_t webapp_bar_content_t (file (read)))\n(allow webapp_domain webapp_file (fifo_file (write)))\n"+
		"(allow init_t webapp_foo_t (process (dyntransition)))\n(allow liege_hook_t self (process (setcurrent)))")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"allow webapp_foo_t webapp_bar_content_t:file read;", []string{"-s", "webapp_foo_t", "-rt", "-t", "^webapp_bar_"}},
		{"allow webapp_domain webapp_file:fifo_file write;", []string{"-s", "webapp_foo_t", "-rt", "-t", "^webapp_bar_"}},
		{"allow webapp_domain webapp_file:fifo_file write;", []string{"-s", "webapp_t", "-rt", "-t", "^webapp_(foo|bar)_"}},
		{"allow init_t webapp_foo_t:process", []string{"-t", "webapp_foo_t", "-c", "process", "-p", "dyntransition"}},
		{"allow liege_hook_t liege_hook_t:process", []string{"-rs", "-s", "^(liege|webapp)_", "-c", "process", "-p", "setcurrent"}},
	} {
		rules := search(t, policy, c.args...)
		if !slices.ContainsFunc(rules, func(r string) bool { return strings.HasPrefix(r, c.want) }) {
			t.Errorf("%v does not find %q:\n%s", c.args, c.want, strings.Join(rules, "\n"))
		}
	}
}
