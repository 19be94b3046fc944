package serve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSpoolCalls: to call a function of @spool is to write its task; the function
// itself gets text.
func TestSpoolCalls(t *testing.T) {
	s := newJobSite(t, "spooler-frequency = 1\n")
	for _, call := range []string{"kinds({'a':'b','body':'text'})", "kinds(a='b',body=b'\\xff')", "pickled(1,b=[2])", "kinds.spool(a='c')"} {
		if got := s.eval(call); !strings.Contains(got, "uwsgi_spoolfile_on_") {
			t.Errorf("%s: got %s", call, got)
		}
	}
	if got := s.eval("kinds.f({'a':'here'})"); got != "None" || s.notes() == "" {
		t.Errorf("kinds.f: got %s", got)
	}
	s.core.Alone()
	for _, line := range []string{"kinds [('a', 'str'), ('body', 'str')]", "kinds [('a', 'str'), ('body', 'bytes')]", "pickled (1,) {'b': [2]}"} {
		s.await(line)
	}
}

// TestPostforkOfOne: @postfork with a number is for that worker.
func TestPostforkOfOne(t *testing.T) {
	s := newJobSite(t, "")
	for _, line := range []string{"forked worker1", "forked worker2", "second in worker2"} {
		s.await(line)
	}
	if n := strings.Count(s.notes(), "second in"); n != 1 {
		t.Errorf("it ran in %d processes", n)
	}
}

// TestMuleRaises: a mule whose function raises is replaced by another, which runs
// it again; one that raises at a message gets the next.
func TestMuleRaises(t *testing.T) {
	s := bareSite(t, strings.Replace(jobLines, "mules = 2", "mules = 6", 1))
	s.core.Alone()
	for file, line := range map[string]string{"fail": "mule 4 runs", "fail5": "mule 5 runs"} {
		s.await(line)
		if err := os.WriteFile(filepath.Join(s.dir, file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		s.until("again: "+line, func() bool { return strings.Count(s.notes(), line) == 2 })
	}
	s.eval("uwsgi.mule_msg(b'bad',6)")
	s.eval("uwsgi.mule_msg(b'good',6)")
	s.await("heard b'good'")
	if n := s.stats().Mules[5].Respawns; n != 0 {
		t.Errorf("the mule of the messages was replaced %d times", n)
	}
}
