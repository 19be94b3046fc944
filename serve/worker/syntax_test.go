package worker

import (
	"os/exec"
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/serve/worker/python"
	"liege/serve/worker/shims"
)

// pythonPrograms are all that runs inside a Python worker.
var pythonPrograms = map[string]string{
	"python.py": shims.PythonSource, "asgi.py": shims.ASGISource, "python_uwsgi.py": shims.PythonUwsgiSource,
	"uwsgidecorators.py": shims.PythonDecoratorsSource, "green.py": shims.GreenSource, "the command line": shims.PythonBoot,
}

// oldPython parses a program as Python 3.6 does: what it says against it.
func oldPython(text string) string {
	cmd := exec.Command(python.Default, "-c", "import ast, sys; ast.parse(sys.stdin.read(), feature_version=(3, 6))")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return err.Error() + ": " + string(out)
	}
	return ""
}

// TestSyntax: the programs are of the oldest Python that is served.
func TestSyntax(t *testing.T) {
	testenv.Need(t, testenv.Python3)
	for name, text := range pythonPrograms {
		if said := oldPython(text); said != "" {
			t.Errorf("%s: %s", name, said)
		}
	}
	if oldPython("if (n := 1): pass\n") == "" {
		t.Error("what is new in Python 3.8 is not found")
	}
}

// newerRuby is what in each program Ruby 1.9.3 does not know, a line each.
func newerRuby(t *testing.T, programs ...string) []string {
	t.Helper()
	cmd := exec.Command("ruby", "--disable-gems", "testdata/ruby19.rb")
	cmd.Stdin = strings.NewReader(strings.Join(programs, "\x00"))
	out, err := cmd.CombinedOutput()
	said := strings.Split(string(out), "\x00")
	if err != nil || len(said) != len(programs) {
		t.Fatalf("%v: %s", err, out)
	}
	return said
}

// TestRubySyntax: the programs are of the oldest Ruby that is served.
func TestRubySyntax(t *testing.T) {
	testenv.Need(t, testenv.Ruby)
	old := "def m(a, b = 1, *c, d, &e)\n  x = {:a => 1, b: 2}\n  a.\n    map { |y; z| -> (q) { q } }\n  m do\n    begin\n      1\n    rescue E => f\n    ensure\n      2\n    end\n  end\n" +
		"  (1..2)\n  %w(a b)\n  p(*a, *c)\n  a\n    .c\nend\nFile.pwrite(1) if x.respond_to?(:pwrite)\n"
	for i, said := range newerRuby(t, shims.Ruby, shims.RubyBoot, old) {
		if said != "" {
			t.Errorf("%s has what Ruby 1.9.3 does not know:\n%s", []string{"ruby.rb", "the command line", "the program of this test"}[i], said)
		}
	}
	// Each of these must be found: the check itself works.
	newer := []string{
		"a&.b", "x = <<~A\nA", "%i(a b)", "%I(a b)", "def m(a:) end", "def m(a: 1) end", "def m(**a) end", "def m(...) n(...) end",
		"private def m() end", "m(**a)", "{x:}", "{'a b': 1}", "1r", "2i", "(1..)", "(..1)", "def m() = 1", "m do\nraise\nrescue\nend", "+'a'",
		"case a\nin 1 then 2\nend", "[1].map { _1 }", "__dir__", "using A", "a\n  # c\n  .b", "[].sum", "def m(&) end", "a => b",
	}
	for i, said := range newerRuby(t, newer...) {
		if !strings.Contains(said, ": ") {
			t.Errorf("this is not found to be newer than Ruby 1.9.3: %q (%s)", newer[i], said)
		}
	}
}
