package serve

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAlarms: the app, rules and a full queue raise alarms; each kind
// tells whom its line says, once for the same text.
func TestAlarms(t *testing.T) {
	mule := filepath.Join(t.TempDir(), "reader.py")
	if err := os.WriteFile(mule, []byte("import os, uwsgi\nwhile True:\n    m = uwsgi.mule_get_msg()\n    open(os.environ['ROOT'] + '/notes', 'a').write('mule3 got %r\\n' % m)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newJobSite(t, "mule = "+mule+`
alarm = note cmd:echo "told $(cat)" >> notes
alarm = note log:
alarm = many signal:11
alarm = many mule:3
alarm = fails cmd:exit 3
alarm-freq = 3600
alarm-msg-size = 64
alarm-backlog = note
route-qs = ^rule(.) alarm:note rule$1 $1 ${REQUEST_METHOD}
route-qs = ^none alarm:nobody x
`)
	log := func() string { b, _ := os.ReadFile(s.log); return string(b) }
	s.core.Alone()
	s.eval("rule1")
	s.until("a rule's", func() bool { return strings.Contains(s.notes(), "told rule1 1 GET") })
	s.eval("[uwsgi.alarm('many', 'x' * 100) for x in range(3)]")
	s.await("signal 11 in worker1")
	s.await("signal 11 in worker2")
	s.await("mule3 got b'" + strings.Repeat("x", 64) + "'")
	s.eval("none")
	s.until("a line about an unknown one", func() bool { return strings.Contains(log(), "no alarm line has this name") })
	s.eval("uwsgi.alarm(b'fails', b'x')")
	s.until("a line about a command that fails", func() bool {
		return strings.Contains(log(), "the command of an alarm failed") && strings.Contains(log(), `err="exit status 3"`)
	})
	if n := strings.Count(s.notes(), "mule3 got") + strings.Count(s.notes(), "signal 11 in"); n != 3 {
		t.Errorf("the same alarm was told again:\n%s", s.notes())
	}
	// More requests than may wait for the two workers, for as long as it takes to be seen.
	var all []net.Conn
	s.until("that of a full queue", func() bool {
		for range 1024 + 100 - min(len(all), 1100) {
			c, err := net.Dial("tcp", s.addrs[0])
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprint(c, "GET /?time.sleep(0.4) HTTP/1.1\r\nHost: x\r\n\r\n")
			all = append(all, c)
		}
		return strings.Contains(s.notes(), "told *** the queue of requests is full: 1024")
	})
	for _, c := range all {
		c.Close()
	}
}

// TestLogAlarms: a line that the app writes raises alarms, and what they say and
// their commands write raises none.
func TestLogAlarms(t *testing.T) {
	s := newJobSite(t, `
alarm = note cmd:cat >> notes; echo "boom from the command"
alarm = other log:
not-log-alarm = note harmless
log-alarm = note,other (?i)BOOM
alarm-freq = 3600
`)
	s.core.Alone()
	s.eval("print('a harmless boom')")
	s.eval("print('line 1'), print('a boom')")
	s.until("the alarm", func() bool { return strings.Contains(s.notes(), "a boom") })
	s.eval("print('Boom again')")
	s.until("the next", func() bool { return strings.Contains(s.notes(), "Boom again") })
	if notes := s.notes(); strings.Contains(notes, "harmless") || strings.Contains(notes, "from the command") || strings.Contains(notes, "msg=alarm") || strings.Contains(notes, "line 1") {
		t.Errorf("the notes are\n%s", notes)
	}
}

// TestFaultAlarm: a worker or mule that the kernel ends for a fault raises the
// alarm, one that is killed does not.
func TestFaultAlarm(t *testing.T) {
	mule := filepath.Join(t.TempDir(), "faulty.py")
	if err := os.WriteFile(mule, []byte("import os, signal, uwsgi\nuwsgi.mule_get_msg()\nos.kill(os.getpid(), signal.SIGBUS)\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	s := newJobSite(t, "mule = "+mule+`
alarm = note cmd:echo "told $(cat)" >> notes
alarm-segfault = note
`)
	s.core.Alone()
	s.eval("[os.kill(os.getpid(), 9)]")
	s.eval("[os.kill(os.getpid(), 11)]")
	s.until("that of a worker", func() bool { return strings.Contains(s.notes(), "was ended by SIGSEGV ***") })
	s.eval("uwsgi.mule_msg(b'x', 3)")
	s.until("that of a mule", func() bool {
		return strings.Contains(s.notes(), "told *** mule 3 (pid ") && strings.Contains(s.notes(), "was ended by SIGBUS ***")
	})
	if strings.Contains(s.notes(), "SIGKILL") {
		t.Error(s.notes())
	}
}
