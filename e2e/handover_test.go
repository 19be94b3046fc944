package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// handOver is an app whose jobs note what they do, and wait until the test lets
// them go on.
const handOver = `
import os, time, uwsgi
from uwsgidecorators import mulefunc, spool

def note(text):
    with open("DIR/notes/notes", "a") as f:
        f.write(text + "\n")

def wait(name):
    note("begun " + name)
    while not os.path.exists("DIR/notes/go-" + name):
        time.sleep(0.01)

@spool
def task(arguments):
    wait(arguments["name"])
    note("done " + arguments["name"])

@mulefunc
def work(name):
    wait(name)
    note("done " + name)

def application(environ, start_response):
    what, _, name = environ["PATH_INFO"][1:].partition("/")
    if what == "hold":
        wait(name)
        work("late" + name)
    elif what == "spool":
        task.spool(name=name)
    elif what == "mule":
        work(name)
    start_response("200 OK", [])
    return [os.environ["GEN"].encode()]
`

// hands is a vassal of handOver.
type hands struct {
	*realm
	addr string
}

// notes are the lines that the vassal's processes wrote.
func (h *hands) notes() []string {
	b, _ := os.ReadFile(filepath.Join(h.dir, "notes/notes"))
	return strings.Split(string(b), "\n")
}

func (h *hands) await(lines ...string) {
	h.t.Helper()
	for _, line := range lines {
		h.until(line, func() bool { return slices.Contains(h.notes(), line) })
	}
}

func (h *hands) release(names ...string) {
	h.t.Helper()
	for _, name := range names {
		h.write("notes/go-"+name, "")
	}
}

// times is how often there is a line.
func (h *hands) times(line string) (n int) {
	for _, l := range h.notes() {
		if l == line {
			n++
		}
	}
	return n
}

// ask has the vassal do something.
func (h *hands) ask(path, gen string) {
	h.t.Helper()
	if code, got := h.get(h.addr, path); code != 200 || got != gen {
		h.t.Errorf("%s: %d %q, want %q", path, code, got, gen)
	}
}

// load begins a request, a task and a mule's message, none of which ends before
// it is released, and puts another one behind the latter two. The function that
// it returns waits for the request's answer.
func (h *hands) load(gen string) (answered func()) {
	h.t.Helper()
	answer := make(chan error, 1)
	go func() {
		resp, err := client(h.addr, false).Get("http://vassal/hold/" + gen)
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode != 200 {
				err = fmt.Errorf("status %d", resp.StatusCode)
			}
		}
		answer <- err
	}()
	h.await("begun " + gen)
	for _, what := range []string{"spool", "mule"} {
		h.ask("/"+what+"/"+what+gen, gen)
		h.await("begun " + what + gen)
		h.ask("/"+what+"/next"+what+gen, gen)
	}
	return func() {
		h.t.Helper()
		if err := <-answer; err != nil {
			h.t.Errorf("the request that was held: %v", err)
		}
	}
}

// TestHandOver: daemons, spoolers and mules are one set at a time. A reload
// hands them over when the new generation serves, though requests of the old
// one are still in hand; what was queued is done, and done once, also when the
// Emperor is killed meanwhile; a generation that fails takes nothing over.
func TestHandOver(t *testing.T) {
	r := newRealm(t)
	r.write("notes/.keep", "")
	r.give("notes", nobody, nobody)
	app := strings.ReplaceAll(handOver, "DIR", r.dir)
	r.write("app/app.py", app)
	drop := func(gen string) {
		r.drop("v", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nprocesses = 2\nbind = DIR/notes\nmule = true\nspooler = DIR/notes/spool\nenv = GEN="+gen+"\n"+
			"attach-daemon2 = cmd=\"exec 9>DIR/notes/lock; flock -n 9 || echo two >>DIR/notes/notes; echo up $GEN >>DIR/notes/notes; exec sleep 10000\"\n")
	}
	drop("a")
	h := &hands{r, r.up("v").Listen[0]}
	h.await("up a")
	answered := h.load("a")
	drop("b")
	r.up("v")
	h.ask("/", "b")
	h.release("spoola", "nextspoola")
	h.await("done spoola", "up b", "done nextspoola") // while the request is still in hand
	if h.times("done latea") != 0 || h.times("begun nextmulea") != 0 {
		t.Errorf("the old generation is gone already: %q", h.notes())
	}
	h.release("a", "mulea", "nextmulea", "latea")
	answered()
	h.await("done mulea", "done nextmulea", "done latea")

	// One that does not load leaves the old set as it is.
	r.write("app/app.py", "def broken(:\n")
	if out, code := r.try("reload", "v", "--timeout", patience); code == 0 {
		t.Errorf("a broken app: %s", out)
	}
	h.release("still", "quiet")
	h.ask("/spool/still", "b")
	h.ask("/mule/quiet", "b")
	h.await("done still", "done quiet")
	if n := h.times("up b"); n != 1 {
		t.Errorf("the daemon was started %d times", n)
	}
	r.write("app/app.py", app)

	// The Emperor is killed while the sets change.
	answered = h.load("b")
	drop("c")
	r.up("v")
	r.kill()
	r.start()
	r.up("v")
	h.ask("/", "c")
	h.release("b", "spoolb", "nextspoolb", "muleb", "nextmuleb", "lateb")
	answered()
	h.await("done spoolb", "done nextspoolb", "done muleb", "done nextmuleb", "done lateb", "up c")

	r.liege("suspend", "v", "--timeout", patience)
	if left := processesOf(t, r.dir+"/notes"); len(left) > 0 {
		t.Errorf("suspended, and there are %v", left)
	}
	r.liege("resume", "v", "--timeout", patience)
	h.until("the daemon again", func() bool { return h.times("up c") == 2 })
	r.liege("stop", "v", "--timeout", patience)
	for _, line := range h.notes() {
		if strings.HasPrefix(line, "done ") && h.times(line) != 1 {
			t.Errorf("%q %d times", line, h.times(line))
		}
	}
	if h.times("two") != 0 {
		t.Errorf("two sets at once: %q", h.notes())
	}
	if left := processesOf(t, r.dir); len(left) > 0 {
		t.Errorf("stopped, and there are %v", left)
	}
}

// TestHandOverAlone: with overlap = no a command that runs when a reload comes
// ends in peace, beside the daemon that it may need, and the next generation
// begins only then; one that takes longer than the drain is asked to end.
func TestHandOverAlone(t *testing.T) {
	r := newRealm(t)
	r.write("notes/.keep", "")
	r.give("notes", nobody, nobody)
	r.write("app/app.py", "import os\nopen(os.environ['NOTES'], 'a').write('loaded %s\\n' % os.environ['GEN'])\n"+hello("here"))
	r.write("app/command", `note() { echo "$1 $GEN" >>$NOTES; }
trap 'note asked; exit' TERM
note begun
until [ -e $NOTES-go ]; do sleep 0.05; done
kill -0 $(cat $NOTES-daemon) && note daemon
note done
`)
	notes := func(name string) string {
		b, _ := os.ReadFile(filepath.Join(r.dir, "notes", name))
		return strings.ReplaceAll(string(b), "\n", ", ")
	}
	drop := func(name, lines, gen string) {
		r.drop(name, "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\nbind = DIR/notes\noverlap = no\nenv = GEN="+gen+"\nenv = NOTES=DIR/notes/"+name+
			"\ntouch-exec = DIR/notes/"+name+"-flag exec sh ./command\nattach-daemon = echo $$ >DIR/notes/"+name+"-daemon; exec sleep 10000\n"+lines)
	}
	vassals := map[string]string{"patient": "", "short": "drain-timeout = 11\n"} // a command gets ten seconds less
	for name, lines := range vassals {
		drop(name, lines, "a")
	}
	for name := range vassals {
		r.up(name)
		r.until("the daemon of "+name, func() bool { b, _ := os.ReadFile(filepath.Join(r.dir, "notes", name+"-daemon")); return len(b) > 1 })
		var touched time.Time
		r.until("the command of "+name, func() bool { // whenever the files are looked at first
			if time.Since(touched) > 5*time.Second {
				touched = time.Now()
				r.write("notes/"+name+"-flag", touched.String())
			}
			return strings.Contains(notes(name), "begun")
		})
	}
	for name, lines := range vassals {
		drop(name, lines, "b")
	}
	r.until("the reload", func() bool { return r.status("patient").State != "running" })
	time.Sleep(300 * time.Millisecond) // in which nothing may happen
	r.write("notes/patient-go", "")
	for name, want := range map[string]string{"patient": "loaded a, begun a, daemon a, done a, loaded b, ", "short": "loaded a, begun a, asked a, loaded b, "} {
		r.up(name)
		if got := notes(name); got != want {
			t.Errorf("%s: %s; want %s", name, got, want)
		}
	}
}
