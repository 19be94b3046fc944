package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/stage"
	"liege/vassal"
)

// fakeEmperor starts sandboxes below the run directory args[0] and prints
// their Records; then it waits to be killed. With args[1] "loop" it starts and
// ends them for ever. args[2] is ManagerConfig.Cgroup, if there.
func fakeEmperor(args []string) error {
	exe, err := Executable()
	if err != nil {
		return err
	}
	cfg := ManagerConfig{RunDir: args[0], Stage: exe}
	if len(args) > 2 {
		cfg.Cgroup = args[2]
	}
	m, err := NewManager(cfg)
	if err != nil {
		return err
	}
	if args[1] == "close" { // what an earlier one left, and all of its own
		if err := m.Sweep(func(vassal.Name, int) bool { return false }); err != nil {
			return err
		}
		fmt.Println("{}")
		return m.Close()
	}
	if args[1] == "children" { // a helper, and a hook command
		helper, hook := exec.Command("sleep", "1000"), exec.Command("sleep", "1000")
		m.Outside(hook)
		if err := errors.Join(helper.Start(), hook.Start()); err != nil {
			return err
		}
		fmt.Println("{}")
		select {}
	}
	r := &rig{m: m, dir: args[0]}
	for gen := 1; ; gen++ {
		for _, name := range []vassal.Name{"one", "two"} {
			spec := r.spec(name, gen, "wait")
			own, err := donations(&spec, filepath.Join(args[0], spec.ID+".log"))
			if err != nil {
				return err
			}
			s, err := m.Start(context.Background(), spec)
			if err != nil {
				return err
			}
			for _, f := range own {
				f.Close()
			}
			text, err := json.Marshal(s.Record())
			if err != nil {
				return err
			}
			fmt.Println(string(text))
			if args[1] == "loop" {
				s.Kill()
				<-s.Done()
			}
		}
		if args[1] != "loop" {
			select {}
		}
	}
}

// killedEmperor runs a fake Emperor and kills it when until says so.
func killedEmperor(t *testing.T, dir, mode string, until func(lines *bufio.Scanner)) {
	t.Helper()
	killedEmperorIn(t, nil, until, dir, mode)
}

// killedEmperorIn does so in a cgroup; nil: this process's.
func killedEmperorIn(t *testing.T, cgroup *os.File, until func(lines *bufio.Scanner), args ...string) {
	t.Helper()
	// Orphans go where they go on a host, not to this process.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self(t), append([]string{"fake-emperor"}, args...)...)
	cmd.Stderr = t.Output()
	if cgroup != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	until(bufio.NewScanner(out))
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	cmd.Wait()
}

func scanRecords(t *testing.T, lines *bufio.Scanner, n int) []Record {
	t.Helper()
	var rs []Record
	for len(rs) < n && lines.Scan() {
		var r Record
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%v in %q", err, lines.Text())
		}
		rs = append(rs, r)
	}
	if len(rs) < n {
		t.Fatal("the Emperor ended early")
	}
	return rs
}

// After kill -9 one generation is adopted and serves on, the other is swept;
// then nothing is left.
func TestSweepAndAdopt(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	dir := t.TempDir()
	var records []Record
	killedEmperor(t, dir, "once", func(lines *bufio.Scanner) { records = scanRecords(t, lines, 2) })

	r := &rig{t: t, dir: dir}
	r.m = r.manager(dir)
	if err := r.m.Sweep(func(name vassal.Name, gen int) bool { return name == "one" && gen == 1 }); err != nil {
		t.Fatal(err)
	}
	if _, err := r.m.Adopt(records[1], stage.Plan{}, vassal.Limits{}); err == nil {
		t.Error("adopted what was swept")
	}
	spec := r.spec("one", 1, "wait")
	wrong := records[0]
	wrong.StartTime++
	if _, err := r.m.Adopt(wrong, spec.Plan, vassal.Limits{}); err == nil {
		t.Error("adopted another process of the same number")
	}
	s, err := r.m.Adopt(records[0], spec.Plan, spec.Limits)
	if err != nil {
		t.Fatal(err)
	}
	b := &box{Sandbox: s, t: t, log: filepath.Join(dir, "one-g1.log")}
	b.awaitOutput("waiting")
	if err := b.Verify(); err != nil {
		t.Errorf("the adopted one: %v", err)
	}
	// Its successor starts beside it; then it goes.
	next := r.start(r.spec("one", 2, "wait"))
	next.awaitOutput("waiting")
	if err := b.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(); e.Code != -1 || !strings.Contains(e.Reason, "unknown") {
		t.Errorf("exit of the adopted: got %+v", e)
	}
	r.nothingOfState("one-g1", "two-g1", "two-g2")
}

// A survivor keeps the limits that it has: those of two may be in force, and it
// may use more than its own. One that cannot be adopted is ended.
func TestAdoptAboveLimit(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	dir := t.TempDir()
	var records []Record
	killedEmperor(t, dir, "once", func(lines *bufio.Scanner) { records = scanRecords(t, lines, 2) })
	r := &rig{t: t, dir: dir}
	r.m = r.manager(dir)
	if err := r.m.Sweep(func(vassal.Name, int) bool { return true }); err != nil {
		t.Fatal(err)
	}
	spec := r.spec("one", 1, "wait")
	s, err := r.m.Adopt(records[0], spec.Plan, vassal.Limits{MemoryMax: 4096})
	if err != nil {
		t.Fatal(err)
	}
	b := &box{Sandbox: s, t: t, log: filepath.Join(dir, "one-g1.log")}
	b.awaitOutput("waiting")
	stranger := records[1]
	stranger.StartTime++
	if err := r.m.Discard(stranger); err != nil || !testenv.Alive(stranger.PID) {
		t.Errorf("discard of another process of the same number: %v", err)
	}
	if err := r.m.Discard(records[1]); err != nil {
		t.Errorf("discard: %v", err)
	}
	if testenv.Alive(records[1].PID) {
		t.Error("the discarded generation lives")
	}
	b.Kill()
	b.wait()
	r.nothingOfState("one-g1", "two-g1", "two-g2")
}

// What Sweep spares and nobody takes over keeps Close from removing anything
// while it lives, and goes with it afterwards.
func TestCloseAfterSparing(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	dir := t.TempDir()
	var records []Record
	killedEmperor(t, dir, "once", func(lines *bufio.Scanner) { records = scanRecords(t, lines, 2) })
	r := &rig{t: t, dir: dir}
	r.m = r.manager(dir)
	if err := r.m.Sweep(func(vassal.Name, int) bool { return true }); err != nil {
		t.Fatal(err)
	}
	if err := r.m.Close(); err == nil {
		t.Error("closed with survivors")
	}
	for _, rec := range records {
		if mounted, err := isMount(filepath.Join(r.m.dir, rec.Name.Dir(), "")); err != nil || !mounted {
			t.Errorf("private directories of %s: %v, %v", rec.Name, mounted, err)
		}
		r.m.trees.empty(rec.Cgroup)
	}
	// The rig closes it now, and Leaks looks.
}

// An Emperor killed at any moment of its starts leaves nothing that the next
// one does not find.
func TestSweepAfterKillAnywhere(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	rounds := 25
	if testing.Short() {
		rounds = 5
	}
	dir := t.TempDir()
	for range rounds {
		killedEmperor(t, dir, "loop", func(lines *bufio.Scanner) {
			scanRecords(t, lines, 1)
			time.Sleep(time.Duration(rand.Int64N(int64(80 * time.Millisecond)))) // anywhere
		})
		m, err := NewManager(ManagerConfig{RunDir: dir, Stage: self(t)})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Sweep(func(vassal.Name, int) bool { return false }); err != nil {
			t.Error(err)
		}
		if got := m.trees.pids(m.Node()); len(got) != 1 { // this process
			t.Errorf("processes after the sweep: got %v", got)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(dir, "sandbox")); err == nil {
			t.Error("RunDir/sandbox is still there")
		}
	}
}

// A sealed Emperor starts sandboxes, and ps and Executable name its file.
func TestSeal(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.OpenTree)
	testenv.Leaks(t)
	dir := t.TempDir()
	killedEmperor(t, dir, "sealed", func(lines *bufio.Scanner) {
		pid := scanRecords(t, lines, 2)[0].PID
		status, err := readStatus(pid)
		if err != nil {
			t.Fatal(err)
		}
		pid, err = strconv.Atoi(status["PPid"])
		if err != nil {
			t.Fatal(err)
		}
		if status, err = readStatus(pid); err != nil {
			t.Fatal(err)
		}
		if want := filepath.Base(self(t)); status["Name"] != want {
			t.Errorf("name: got %q, want %q", status["Name"], want)
		}
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		if err != nil || !strings.HasPrefix(exe, "/memfd:") {
			t.Errorf("program: got %q, %v, want a memfd", exe, err)
		}
	})
	r := &rig{t: t, dir: dir}
	r.m = r.manager(dir)
	if err := r.m.Sweep(func(vassal.Name, int) bool { return false }); err != nil {
		t.Fatal(err)
	}
}

// What a killed Emperor had running for itself ends too.
func TestSweepEndsOrphans(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CgroupV2)
	testenv.Leaks(t)
	dir := t.TempDir()
	killedEmperor(t, dir, "children", func(lines *bufio.Scanner) { scanRecords(t, lines, 1) })
	r := &rig{t: t, dir: dir}
	r.m = r.manager(dir)
	mine := exec.Command("sleep", "1000")
	if err := mine.Start(); err != nil {
		t.Fatal(err)
	}
	defer mine.Process.Kill()
	if got := len(r.m.trees.pids(r.m.Node())); got != 4 {
		t.Errorf("before the sweep: got %d processes, want 4", got)
	}
	if err := r.m.Sweep(func(vassal.Name, int) bool { return false }); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); len(r.m.trees.pids(r.m.Node())) > 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("orphans live: %v", r.m.trees.pids(r.m.Node()))
		}
	}
	// A signal of our own comes after one it may have got.
	if err := mine.Process.Signal(unix.SIGTERM); err != nil {
		t.Error(err)
	}
	_ = mine.Wait() // ended by a signal either way
	if got := mine.ProcessState.Sys().(syscall.WaitStatus).Signal(); got != unix.SIGTERM {
		t.Errorf("this Emperor's own child: got %v, want it to live until %v", got, unix.SIGTERM)
	}
}

// A process that cannot be killed, here a frozen one, does not keep the Emperor
// from starting; what else is left goes.
func TestSweepOfUnkillable(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CgroupV2, testenv.Freezer) // SIGKILL does not thaw it
	testenv.Leaks(t)
	r := newRig(t)
	freezer := r.m.trees.v1["freezer"]
	sleeper := func(inner string) *exec.Cmd {
		if err := r.m.trees.make(inner); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "1000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() }) // an error says that it has ended
		for _, mount := range []string{freezer, r.m.trees.unified} {
			write(t, filepath.Join(mount, inner, "cgroup.procs"), strconv.Itoa(cmd.Process.Pid))
		}
		return cmd
	}
	frozen := sleeper(r.m.all() + "/v-frozen/g1")
	mortal := sleeper(r.m.all() + "/v-mortal/g1")
	state := filepath.Join(freezer, r.m.all(), "v-frozen/g1/freezer.state")
	write(t, state, "FROZEN")
	t.Cleanup(func() { _ = os.WriteFile(state, []byte("THAWED"), 0) }) // gone, if all went well
	began := time.Now()
	err := r.m.Sweep(func(vassal.Name, int) bool { return false })
	if err == nil || !strings.Contains(err.Error(), "do not die") {
		t.Errorf("swept an unkillable process: %v", err)
	}
	if d := time.Since(began); d > 2*sweepTime {
		t.Errorf("took %v", d)
	}
	if _, err := os.Stat(filepath.Join(freezer, r.m.all(), "v-mortal")); err == nil {
		t.Error("the other vassal's cgroup is left")
	}
	write(t, state, "THAWED")
	_ = frozen.Wait() // killed
	_ = mortal.Wait()
	if err := r.m.Sweep(func(vassal.Name, int) bool { return false }); err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0); err != nil {
		t.Fatal(err)
	}
}

func (r *rig) nothingOfState(ids ...string) {
	r.t.Helper()
	for _, id := range ids {
		if _, err := os.Stat(filepath.Join(r.m.stateDir(), id)); err == nil {
			r.t.Errorf("state of %s is left", id)
		}
	}
}

const secret = "only for the host"

// fakeEscape takes its listener (fd 3) and a connection accepted from it apart
// and connects them, in the network of the host, to the port of args[0].
func fakeEscape(args []string) error {
	fmt.Println("waiting")
	fd, _, err := unix.Accept(3)
	if err != nil {
		return err
	}
	port, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	fresh, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	fmt.Println("fresh:", reconnect(fresh, port))
	fmt.Println("accepted:", reconnect(fd, port))
	fmt.Println("listener:", reconnect(3, port))
	fmt.Println("rebound:", rebind(fd))
	return nil
}

// rebind takes a connection apart and makes a listener of it, at another
// address.
func rebind(fd int) string {
	if err := disconnect(fd); err != nil {
		return "disconnect: " + err.Error()
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 9}}); err != nil {
		return err.Error()
	}
	if err := unix.Listen(fd, 1); err != nil {
		return err.Error()
	}
	return "listens"
}

func disconnect(fd int) error {
	unspec := unix.RawSockaddrInet4{Family: unix.AF_UNSPEC}
	_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptrOf(&unspec), unix.SizeofSockaddrInet4)
	if errno != 0 {
		return errno
	}
	return nil
}

func reconnect(fd, port int) string {
	if err := disconnect(fd); err != nil {
		return "disconnect: " + err.Error()
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err.Error()
	}
	buf := make([]byte, 64)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[:n])
}

// A tenant cannot leave its network through a listener or a connection, and
// could if the guard were not there (KERNEL 1).
func TestNoEscapeThroughListener(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.CgroupV2, testenv.OpenTree)
	// Made before the Manager: not guarded.
	open := listen(t)
	r := newRig(t)
	if err := r.m.Guarded(); err != nil {
		t.Fatal(err)
	}
	bait := listen(t)
	go func() {
		for {
			c, err := bait.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, secret)
			c.Close()
		}
	}()
	port := strconv.Itoa(bait.Addr().(*net.TCPAddr).Port)
	attack := func(name vassal.Name, l *net.TCPListener) string {
		f, err := l.File()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		// The core blocks in accept.
		if err := unix.SetNonblock(int(f.Fd()), false); err != nil {
			t.Fatal(err)
		}
		spec := r.spec(name, 1, "escape", port)
		spec.Listeners = []*os.File{f}
		b := r.start(spec)
		b.awaitOutput("waiting")
		r.dial(l.Addr().String())
		b.wait()
		return b.output()
	}
	got := attack("guarded", listen(t))
	// The tenant's own lo is up, and nobody listens there.
	for _, who := range []string{"fresh: connection refused", "accepted: operation not permitted", "listener: operation not permitted", "rebound: operation not permitted"} {
		if !strings.Contains(got, who) {
			t.Errorf("guarded: got %q, want %q in it", got, who)
		}
	}
	if strings.Contains(got, secret) {
		t.Error("the tenant read the host's secret")
	}
	if got := attack("open", open); !strings.Contains(got, "accepted: "+secret) || !strings.Contains(got, "listener: "+secret) || !strings.Contains(got, "rebound: listens") {
		t.Errorf("without the guard: got %q; the attack does not work, so the test shows nothing", got)
	}
}

func listen(t *testing.T) *net.TCPListener {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dial connects from outside the guarded cgroup, where this process cannot.
func (r *rig) dial(addr string) {
	r.t.Helper()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		r.t.Error("the Emperor itself can connect")
	}
	cmd := exec.Command(self(r.t), addr)
	cmd.Args[0] = "fake-client"
	r.m.Outside(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		r.t.Fatalf("dial from outside: %v: %s", err, out)
	}
}

func fakeClient(addr string) error {
	c, err := net.Dial("tcp", addr)
	if errors.Is(err, unix.ECONNRESET) {
		return nil // accepted, and taken apart at once
	}
	if err != nil {
		return err
	}
	return c.Close()
}
