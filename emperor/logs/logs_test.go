package logs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/vassal"
)

func open(t *testing.T, set Settings) *Log {
	t.Helper()
	if set.Dir == "" {
		set.Dir = filepath.Join(t.TempDir(), "log")
	}
	l, err := Open(set, "shop", filepath.Join(t.TempDir(), "fifo"))
	if err != nil {
		t.Fatal(err)
	}
	go l.Run()
	t.Cleanup(func() { l.Close() })
	return l
}

func writer(t *testing.T, l *Log) *os.File {
	t.Helper()
	w, err := l.Writer(os.Getuid(), os.Getgid(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func content(t *testing.T, l *Log) string {
	t.Helper()
	l.Settle()
	b, err := os.ReadFile(l.Path())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLines(t *testing.T) {
	var mu sync.Mutex
	var tee []string
	l := open(t, Settings{Tee: func(n vassal.Name, s string) {
		mu.Lock()
		defer mu.Unlock()
		tee = append(tee, fmt.Sprintf("%s | %s", n, s))
	}})
	l.Note("network: %s", "none")
	w := writer(t, l)
	fmt.Fprint(w, "one\ntwo \x1b[2J\nno end")
	long := strings.Repeat("x", MaxLine+5)
	got := content(t, l)
	if want := "liege: network: none\none\ntwo \x1b[2J\nno end\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	fmt.Fprintln(w, long)
	got = content(t, l)
	if want := long[:MaxLine] + "\nxxxxx\n"; !strings.HasSuffix(got, want) {
		t.Errorf("the long line ends in %q", got[len(got)-20:])
	}
	mu.Lock()
	defer mu.Unlock()
	if want := "shop | liege: network: none|shop | one|shop | two ?[2J|shop | no end"; strings.Join(tee[:4], "|") != want {
		t.Errorf("tee %q", tee[:4])
	}
	if tail := l.Tail(4); tail[0] != "two ?[2J" || len(tail[2]) != 1<<10 {
		t.Errorf("tail %.40q", tail)
	}
}

func TestModes(t *testing.T) {
	testenv.Need(t, testenv.Root)
	l := open(t, Settings{})
	w, err := l.Writer(65534, 65533, "")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for path, want := range map[string]string{l.fifo: "10600 65534:65533", l.Path(): "100640 0:65533", filepath.Dir(l.Path()): "40755 0:0"} {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
	if flags, err := unix.FcntlInt(w.Fd(), unix.F_GETFL, 0); err != nil || flags&unix.O_ACCMODE != unix.O_RDWR || flags&unix.O_NONBLOCK != 0 {
		t.Errorf("flags %o, %v", flags, err)
	}
}

// Whoever has the vassal's name next does not read what another's app printed.
func TestHandOver(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	owners := func() (all []string) {
		es, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range es {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(dir, e.Name()), &st); err != nil {
				t.Fatal(err)
			}
			all = append(all, fmt.Sprintf("%s %o %d:%d %v", e.Name(), st.Mode&0o777, st.Uid, st.Gid, st.Size > 0))
		}
		return all
	}
	serve := func(gid int, text string) {
		l := open(t, Settings{Dir: dir})
		w, err := l.Writer(65534, gid, "")
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		fmt.Fprintln(w, text)
		l.Settle()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	serve(65533, "secret")
	serve(65533, "another")
	if got := owners(); !slices.Equal(got, []string{"shop.log 640 0:65533 true"}) {
		t.Errorf("its own: %v", got)
	}
	serve(65532, "hello")
	if got := owners(); !slices.Equal(got, []string{"shop.log 640 0:65532 true", "shop.log.1.gz 640 0:0 true"}) {
		t.Errorf("another's: %v", got)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "shop.log")); err != nil || strings.Contains(string(b), "secret") {
		t.Errorf("%v: %s", err, b)
	}
}

func TestRotate(t *testing.T) {
	l := open(t, Settings{MaxSize: 1000, Keep: 2})
	w := writer(t, l)
	for i := range 50 {
		fmt.Fprintf(w, "line %03d %s\n", i, strings.Repeat(".", 90))
		if i%10 == 9 {
			l.Settle()
		}
	}
	content(t, l)
	es, err := os.ReadDir(filepath.Dir(l.Path()))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range es {
		names = append(names, e.Name())
	}
	if got := strings.Join(names, " "); got != "shop.log shop.log.1.gz shop.log.2.gz" && got != "shop.log.1.gz shop.log.2.gz" {
		t.Errorf("files: %s", got)
	}
	z, err := os.Open(l.Path() + ".1.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	r, err := gzip.NewReader(z)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil || len(b) < 1000 || len(b) > 1200 || !bytes.HasPrefix(b, []byte("line 0")) {
		t.Errorf("%d bytes %.20q, %v", len(b), b, err)
	}
}

// What comes too fast is dropped and counted; what comes later is kept.
func TestFlood(t *testing.T) {
	l := open(t, Settings{})
	l.bucket = bucket{rate: Rate, burst: 1000}
	at := time.Unix(1_000_000, 0)
	line := strings.Repeat("y", 99) + "\n"
	l.mu.Lock() // as read holds it
	defer l.mu.Unlock()
	fast := l.lines([]byte(strings.Repeat(line, 25)), at)
	if !fast || l.lost.lines != 15 {
		t.Errorf("fast %v, lost %+v", fast, l.lost)
	}
	if l.lines([]byte("later\n"), at.Add(time.Second)) {
		t.Error("still fast")
	}
	b, err := os.ReadFile(l.Path())
	if want := strings.Repeat(line, 10) + "liege: 15 lines of 1500 bytes were dropped: more than 1048576 bytes a second\nlater\n"; err != nil || string(b) != want {
		t.Errorf("got %q, %v", b, err)
	}
}

// A flood that goes on is said once a second, in sums, however many lines are
// kept between two that are dropped.
func TestFloodIsSummed(t *testing.T) {
	l := open(t, Settings{})
	l.bucket = bucket{rate: 2000, burst: 200}
	at := time.Unix(1_000_000, 0)
	line := strings.Repeat("y", 99) + "\n"
	l.mu.Lock() // as read holds it
	defer l.mu.Unlock()
	for n := range 300 { // 10 kB a second, for three of them
		l.lines([]byte(line), at.Add(time.Duration(n)*10*time.Millisecond))
	}
	b, err := os.ReadFile(l.Path())
	if n := bytes.Count(b, []byte(" were dropped: ")); err != nil || n < 2 || n > 4 {
		t.Errorf("said %d times in three seconds, %v", n, err)
	}
	lines, bytes := l.lost.lines, l.lost.bytes
	for text := range strings.Lines(string(b)) {
		var n, size int64
		switch _, err := fmt.Sscanf(text, "liege: %d lines of %d bytes", &n, &size); {
		case err == nil:
			lines, bytes = lines+n, bytes+size
		case text == line:
			lines, bytes = lines+1, bytes+int64(len(text))
		}
	}
	if lines != 300 || bytes != int64(300*len(line)) {
		t.Errorf("%d lines of %d bytes are there or said to be lost, want 300 of %d", lines, bytes, 300*len(line))
	}
}

// A real flood: its author waits, the disk gets the rate and no more.
func TestFloodFromOutside(t *testing.T) {
	l := open(t, Settings{})
	w := writer(t, l)
	const total = 12 << 20
	block := []byte(strings.Repeat(strings.Repeat("z", 99)+"\n", 640))
	began := time.Now()
	for sent := 0; sent < total; sent += len(block) {
		if _, err := w.Write(block); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	got := len(content(t, l))
	if most := int(float64(Rate)*(took.Seconds()+2)) + 1<<20; got > most || got >= total {
		t.Errorf("%d bytes written in %v, want at most %d", got, took, most)
	}
	if took < time.Second/2 {
		t.Errorf("%d bytes were taken in %v: the flood is read as fast as it comes", total, took)
	}
	l.flush(time.Now().Add(time.Second))
	if b, err := os.ReadFile(l.Path()); err != nil || !bytes.Contains(b, []byte(" were dropped: more than 1048576 bytes a second\n")) {
		t.Errorf("the log does not say what was dropped: %v", err)
	}
}

// A full disk drops, and says so when there is room again.
func TestFullDisk(t *testing.T) {
	var said bytes.Buffer // with l.mu held
	l := open(t, Settings{Log: slog.New(slog.NewTextHandler(&said, nil))})
	if err := l.Trouble(); err != nil {
		t.Error(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := writer(t, l)
	l.mu.Lock()
	good := l.out
	l.out = full
	l.mu.Unlock()
	fmt.Fprint(w, "a\nb\n")
	for i := 0; i < 1000 && len(l.Tail(9)) < 2; i++ {
		time.Sleep(time.Millisecond)
	}
	if err := l.Trouble(); err == nil || !strings.HasSuffix(err.Error(), "shop.log: no space left on device") {
		t.Errorf("trouble: %v", err)
	}
	l.mu.Lock()
	l.out = good
	l.mu.Unlock()
	full.Close()
	fmt.Fprint(w, "c\n")
	defer func() {
		if err := l.Trouble(); err != nil {
			t.Errorf("with room again: %v", err)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if got := said.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "its lines are lost") || !strings.Contains(got, "written again") {
			t.Errorf("the Emperor's log says %s", got)
		}
	}()
	if got, want := content(t, l), "liege: 2 lines of 4 bytes were dropped: no space left on device\nc\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Half a line that there was room for ends before the next one begins.
func TestHalfALine(t *testing.T) {
	l := open(t, Settings{})
	signal.Ignore(unix.SIGXFSZ)
	defer signal.Reset(unix.SIGXFSZ)
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	l.mu.Lock()
	err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 3, Max: was.Max})
	written := l.write([]byte("lines\n"))
	err = errors.Join(err, unix.Setrlimit(unix.RLIMIT_FSIZE, &was))
	l.mu.Unlock()
	if err != nil || written {
		t.Fatalf("written: %v, %v", written, err)
	}
	l.Note("next")
	if got := content(t, l); !strings.HasPrefix(got, "lin\nliege: next\n") {
		t.Errorf("got %q", got)
	}
}

// What a full disk refused is said when it has room, also if nothing is printed
// any more.
func TestFullDiskAndSilence(t *testing.T) {
	l := open(t, Settings{})
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	w := writer(t, l)
	l.mu.Lock()
	good := l.out
	l.out = full
	l.mu.Unlock()
	fmt.Fprint(w, "a\n")
	l.Settle() // it was tried once more than when it came
	l.mu.Lock()
	l.out = good
	l.mu.Unlock()
	for end := time.Now().Add(20 * time.Second); l.Trouble() != nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("nobody tries again")
		}
	}
	if got, want := content(t, l), "liege: 1 lines of 2 bytes were dropped: no space left on device\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A full disk where logto leads is a trouble too, until it has room.
func TestFullTarget(t *testing.T) {
	l := open(t, Settings{})
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	l.Elsewhere(full, nil)
	fmt.Fprint(writer(t, l), "a\n")
	for end := time.Now().Add(20 * time.Second); l.Trouble() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is not said")
		}
	}
	if got, want := l.Trouble().Error(), "the file that logto names: no space left on device"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	l.Elsewhere(nil, nil)
	if err := l.Trouble(); err != nil {
		t.Error(err)
	}
}

// stuck is a file on a file system that hangs.
type stuck struct{ release chan struct{} }

func (s stuck) Write(b []byte) (int, error) { <-s.release; return len(b), nil }
func (s stuck) Close() error                { return nil }

// A file of the tenant's that hangs stops nobody: lines are dropped, notes are
// written, Close returns.
func TestHangingTarget(t *testing.T) {
	l := open(t, Settings{})
	w := writer(t, l)
	target := stuck{make(chan struct{})}
	var hangs <-chan struct{}
	l.Elsewhere(target, func(done <-chan struct{}) { hangs = done })
	for i := range 3 * asideLines {
		fmt.Fprintf(w, "line %d\n", i)
	}
	for end := time.Now().Add(10 * time.Second); len(l.Tail(1)) == 0 || l.Tail(1)[0] != fmt.Sprintf("line %d", 3*asideLines-1); {
		if time.Now().After(end) {
			t.Fatal("the log waits for the file")
		}
		time.Sleep(time.Millisecond)
	}
	l.Note("still here")
	b, err := os.ReadFile(l.Path())
	if err != nil || !strings.Contains(string(b), "still here") {
		t.Errorf("log: %q, %v", b, err)
	}
	l.Elsewhere(nil, nil)
	if hangs == nil {
		t.Fatal("nobody is told of the thread that hangs")
	}
	close(target.release)
	<-hangs
}

// The writer's end outlives the log: nobody dies of SIGPIPE, and the next Log
// reads on.
func TestReopen(t *testing.T) {
	dir := t.TempDir()
	set := Settings{Dir: dir}
	l, err := Open(set, "shop", dir+"/fifo")
	if err != nil {
		t.Fatal(err)
	}
	w := writer(t, l)
	l.in.Close() // as if killed
	if _, err := w.WriteString("while nobody reads\n"); err != nil {
		t.Fatal(err)
	}
	l, err = Open(set, "shop", dir+"/fifo")
	if err != nil {
		t.Fatal(err)
	}
	go l.Run()
	if got := content(t, l); got != "while nobody reads\n" {
		t.Errorf("got %q", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir + "/fifo"); err == nil {
		t.Error("the FIFO is left")
	}
}

func TestExpire(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	old := now.Add(-KeepFor - time.Hour)
	for name, at := range map[string]time.Time{
		"gone.log": old, "gone.log.1.gz": old, "gone.log.log": old, "lives.log": old, "fresh.log": now, "other": old, "gone.log.keep": old,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := Expire(dir, func(n vassal.Name) bool { return n == "lives" }, now); err != nil {
		t.Fatal(err)
	}
	es, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, e := range es {
		left = append(left, e.Name())
	}
	if got, want := strings.Join(left, " "), "fresh.log gone.log.keep lives.log other"; got != want {
		t.Errorf("left %s, want %s", got, want)
	}
}
