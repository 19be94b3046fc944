package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/vassal"
)

const (
	alice   = 61001
	mallory = 61002
	staff   = 61050
)

// backend is a Backend of three vassals.
type backend struct {
	mu    sync.Mutex
	acted []string
	busy  int
	most  int
	block chan struct{} // Act waits for it,
	begun chan struct{} // having said so here
}

func text(s string) *string { return &s }

func (b *backend) Vassals(context.Context) []Vassal {
	return []Vassal{
		{Name: "alices", Users: []int{alice}, Log: text("/var/log/liege/alices.log"), Listen: []string{}, Problems: []vassal.Problem{}},
		{Name: "blog", Users: []int{33}, Listen: []string{}, Problems: []vassal.Problem{}},
		{Name: "shop", Users: []int{33}, Listen: []string{}, Problems: []vassal.Problem{}},
	}
}

func (b *backend) VassalsOf(ctx context.Context, user int) []Vassal {
	return slices.DeleteFunc(b.Vassals(ctx), func(v Vassal) bool { return !slices.Contains(v.Users, user) })
}

func (b *backend) Users() (users []int) {
	for _, v := range b.Vassals(context.Background()) {
		users = append(users, v.Users...)
	}
	return users
}

func (b *backend) Refresh(context.Context) error { return nil }
func (b *backend) Concurrency() int              { return 2 }

func (b *backend) Enter(ctx context.Context, name string, r Request, by string, files []*os.File) Outcome {
	if len(r.Command) > 0 && r.Command[0] == "wait" {
		<-ctx.Done()
		return Outcome{Code: 75}
	}
	_, err := files[1].WriteString(name + " " + by)
	return Outcome{OK: err == nil, Code: 7}
}

func (b *backend) Act(ctx context.Context, name string, r Request, by string) Outcome {
	b.mu.Lock()
	b.acted = append(b.acted, fmt.Sprintf("%s %s by %s", r.Verb, name, by))
	b.busy++
	b.most = max(b.most, b.busy)
	b.mu.Unlock()
	defer func() { b.mu.Lock(); b.busy--; b.mu.Unlock() }()
	if b.block != nil {
		b.begun <- struct{}{}
		select {
		case <-b.block:
		case <-ctx.Done():
			return Outcome{Code: 75, Text: "timed out"}
		}
	}
	if name == "blog" && r.Verb == Restart {
		return Outcome{Code: 1, Text: "blog: no", Problem: &vassal.Problem{Severity: vassal.Error, Code: "x", Message: "no"}}
	}
	return Outcome{OK: true, Text: name + ": done"}
}

func (b *backend) Await(ctx context.Context, name, goal string) Outcome {
	if name == "never" {
		<-ctx.Done()
		return Outcome{Code: 75}
	}
	return Outcome{OK: true, Text: name + " " + goal}
}

// serve starts a server; everybody can reach its socket, so that the server
// alone decides.
func serve(t *testing.T, b Backend, group int) (socket string) {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir(); d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	socket = Socket(dir)
	ln, err := listen(socket, group, 0o666) // who is let in is what is tested
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	s := &Server{Backend: b, Group: group, Version: "1.2", Binary: "/x", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	end := make(chan error)
	go func() { end <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-end; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return socket
}

// dialAs connects as somebody else: the kernel takes the credentials of the
// thread that connects.
func dialAs(t *testing.T, socket string, uid, gid int, groups ...uint32) net.Conn {
	t.Helper()
	type result struct {
		fd  int
		err error
	}
	c := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		var gp unsafe.Pointer
		if len(groups) > 0 {
			gp = unsafe.Pointer(&groups[0])
		}
		_, _, e1 := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(gp), 0)
		_, _, e2 := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid))
		_, _, e3 := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		if max(e1, e2, e3) != 0 {
			c <- result{-1, fmt.Errorf("become %d: %w", uid, max(e1, e2, e3))}
			return
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		}
		c <- result{fd, err}
	}()
	r := <-c
	if r.err != nil {
		t.Fatal(r.err)
	}
	f := os.NewFile(uintptr(r.fd), socket)
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask sends r over conn and returns what came back, in short.
func ask(t *testing.T, conn net.Conn, r Request) string {
	t.Helper()
	defer conn.Close()
	var out []string
	err := talk(t.Context(), conn.(*net.UnixConn), r, nil, func(rep Reply) error {
		out = append(out, rep.Name)
		return nil
	})
	slices.Sort(out)
	return strings.TrimSpace(fmt.Sprint(ExitCode(err), " ", strings.Join(out, " ")))
}

// Who may do what: the one table, asked over a real socket.
func TestWho(t *testing.T) {
	testenv.Need(t, testenv.Root)
	socket := serve(t, &backend{}, staff)
	type who struct {
		name     string
		uid, gid int
		groups   []uint32
	}
	root := who{"root", 0, 0, nil}
	member := who{"a member of the group", mallory, mallory, []uint32{5, staff}}
	primary := who{"one whose primary group it is", mallory, staff, nil}
	owner := who{"alice", alice, alice, nil}
	other := who{"mallory", mallory, mallory, []uint32{5}}
	rootGroup := who{"a member of group 0", mallory, 0, nil}
	for _, tt := range []struct {
		who  who
		r    Request
		want string
	}{
		{root, Request{Verb: List}, "0 alices blog shop"},
		{member, Request{Verb: List}, "0 alices blog shop"},
		{primary, Request{Verb: List}, "0 alices blog shop"},
		{owner, Request{Verb: List}, "0 alices"},
		{other, Request{Verb: List}, "77"},
		{rootGroup, Request{Verb: List}, "77"},
		{owner, Request{Verb: Status, Names: []string{"alices.ini"}}, "0 alices"},
		{owner, Request{Verb: Status, Names: []string{"shop"}}, "66 shop"}, // not even that it exists
		{owner, Request{Verb: Reload, Names: []string{"alices"}}, "0 alices"},
		{owner, Request{Verb: Reload, Names: []string{"shop"}}, "66 shop"},
		{owner, Request{Verb: Reload, All: true}, "0 alices"},
		{owner, Request{Verb: Wait, Names: []string{"shop"}, Goal: "gone"}, "66 shop"},
		{owner, Request{Verb: Stop, Names: []string{"alices"}}, "77"},
		{owner, Request{Verb: Suspend, Names: []string{"alices"}}, "77"},
		{other, Request{Verb: Reload, Names: []string{"alices"}}, "77"},
		{other, Request{Verb: Wait, Names: []string{"x"}, Goal: "gone"}, "77"},
		{member, Request{Verb: Stop, Names: []string{"s*", "blog"}}, "0 blog shop"},
		{root, Request{Verb: Restart, All: true}, "1 alices blog shop"},
		{root, Request{Verb: Stop, Names: []string{"nobody", "shop"}}, "66 nobody shop"},
		{root, Request{Verb: List, Names: []string{"x*"}}, "0"},
		{root, Request{Verb: List, Names: []string{"x"}}, "66 x"},
		{root, Request{Verb: Wait, Names: []string{"new"}, Goal: "running"}, "0 new"},
		{root, Request{Verb: Stop}, "64"},
		{other, Request{Verb: About}, "77"},
		{owner, Request{Verb: About}, "0"},
		{owner, Request{Verb: Enter, Names: []string{"alices"}}, "77"},
		{owner, Request{Verb: Start, All: true}, "77"},
	} {
		if got := ask(t, dialAs(t, socket, tt.who.uid, tt.who.gid, tt.who.groups...), tt.r); got != tt.want {
			t.Errorf("%s: %s %v: got %q, want %q", tt.who.name, tt.r.Verb, tt.r.Names, got, tt.want)
		}
	}
}

func TestSocketMode(t *testing.T) {
	testenv.Need(t, testenv.Root)
	dir := t.TempDir()
	for _, tt := range []struct {
		gid  int
		mode os.FileMode
	}{{-1, 0o600}, {staff, 0o660}} {
		ln, err := Listen(Socket(dir), tt.gid) // the second replaces what the first left
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		var st unix.Stat_t
		if err := unix.Stat(Socket(dir), &st); err != nil {
			t.Fatal(err)
		}
		if os.FileMode(st.Mode&0o777) != tt.mode || st.Uid != 0 || int(st.Gid) != max(tt.gid, 0) {
			t.Errorf("gid %d: mode %o of %d:%d", tt.gid, st.Mode&0o777, st.Uid, st.Gid)
		}
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if ln, err := Listen(file, -1); err == nil {
		ln.Close()
		t.Error("a file was replaced by a socket")
	}
}

func TestCallErrors(t *testing.T) {
	dir := t.TempDir()
	code := func(socket string) int {
		return ExitCode(Call(t.Context(), socket, Request{Verb: List}, func(Reply) error { return nil }))
	}
	if got := code(Socket(dir)); got != 69 {
		t.Errorf("no socket: %d", got)
	}
	ln, err := Listen(Socket(dir), -1)
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	ln.Close()
	if got := code(Socket(dir)); got != 69 {
		t.Errorf("nobody listens: %d", got)
	}
	mine := errors.New("mine")
	socket := serve(t, &backend{}, -1)
	if err := Call(t.Context(), socket, Request{Verb: List}, func(Reply) error { return mine }); !errors.Is(err, mine) {
		t.Errorf("got %v", err)
	}
	if got := ExitCode(Call(t.Context(), socket, Request{Verb: Suspend, Names: []string{"x"}, Page: make([]byte, MaxRequest)}, nil)); got != 64 {
		t.Errorf("a long page: %d", got)
	}
	began := time.Now()
	err = Call(t.Context(), socket, Request{Verb: Wait, Names: []string{"never"}, Goal: "running", Timeout: 50 * time.Millisecond}, func(Reply) error { return nil })
	if got := ExitCode(err); got != 75 || time.Since(began) > 5*time.Second {
		t.Errorf("timed out: %d after %v", got, time.Since(began))
	}
	var e *Error
	if !errors.As(err, &e) || !e.Said {
		t.Errorf("got %#v", err)
	}
	v := ""
	if err := Call(t.Context(), socket, Request{Verb: About}, func(r Reply) error { v = r.Version; return nil }); err != nil || v != "1.2" {
		t.Errorf("version %q, %v", v, err)
	}
	path := ""
	if err := Call(t.Context(), socket, Request{Verb: Logs, Names: []string{"alices"}}, func(r Reply) error { path = r.Path; return nil }); err != nil || path != "/var/log/liege/alices.log" {
		t.Errorf("log %q, %v", path, err)
	}
}

// No more than may start at once are reloaded at once; stop waits for nobody.
func TestWidth(t *testing.T) {
	b := &backend{block: make(chan struct{}), begun: make(chan struct{})}
	socket := serve(t, b, -1)
	for _, tt := range []struct {
		verb Verb
		want int
	}{{Reload, 2}, {Stop, 3}} {
		b.mu.Lock()
		b.most = 0
		b.mu.Unlock()
		end := make(chan error)
		go func() {
			end <- Call(t.Context(), socket, Request{Verb: tt.verb, All: true}, func(Reply) error { return nil })
		}()
		for range tt.want {
			<-b.begun
		}
		for i := range 3 {
			b.block <- struct{}{}
			if i < 3-tt.want {
				<-b.begun
			}
		}
		if err := <-end; err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		if b.most != tt.want {
			t.Errorf("%s: %d at once, want %d", tt.verb, b.most, tt.want)
		}
		b.mu.Unlock()
	}
}

// Bad lines, and clients that say nothing, hold nobody up.
func TestBadClients(t *testing.T) {
	testenv.Leaks(t)
	socket := serve(t, &backend{}, -1)
	for _, line := range []string{"", "{", "null", `{"v":2,"verb":"list"}`, `{"v":1,"verb":"rm"}`, `[1]`, "\x00\xff", `{"v":1,"verb":"wait","names":["x"],"goal":"nirvana"}`,
		`{"v":1,"verb":"stop","names":["["]}`, `{"v":1,"verb":"list","timeout":-1}`} {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(c, "%s\n", line)
		b, err := bufio.NewReader(c).ReadBytes('\n')
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var r Reply
		if err := json.Unmarshal(b, &r); err != nil || r.Code != 64 || !r.Done {
			t.Errorf("%q: %s %v", line, b, err)
		}
		c.Close()
	}
	c, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go c.Write(bytes.Repeat([]byte("x"), MaxRequest+1))
	b, _ := io.ReadAll(c)
	if !bytes.Contains(b, []byte("longer than")) {
		t.Errorf("a long line: %s", b)
	}
	c.Close()
}

// Whoever may not do everything shares few places, and has a rate; those who
// run no vassal have nothing. Root and the group get through all that.
func TestManyClients(t *testing.T) {
	testenv.Need(t, testenv.Root)
	testenv.Leaks(t)
	socket := serve(t, &backend{}, staff)
	var idle []net.Conn
	defer func() {
		for _, c := range idle {
			c.Close()
		}
	}()
	for range 3 * MaxStrangers {
		idle = append(idle, dialAs(t, socket, mallory, mallory))
	}
	for range 2 * MaxUserClients {
		idle = append(idle, dialAs(t, socket, alice, alice))
	}
	if got := ask(t, dialAs(t, socket, alice, alice), Request{Verb: List}); got != "75" {
		t.Errorf("one more of alice's: got %q, want 75", got)
	}
	if got := ask(t, dialAs(t, socket, mallory, mallory), Request{Verb: List}); got != "77" {
		t.Errorf("mallory: got %q, want 77", got)
	}
	for who, want := range map[int]string{33: "0 blog shop", 0: "0 alices blog shop"} {
		if got := ask(t, dialAs(t, socket, who, who), Request{Verb: List}); got != want {
			t.Errorf("%d: got %q, want %q", who, got, want)
		}
	}
	if got := ask(t, dialAs(t, socket, mallory, staff), Request{Verb: List}); got != "0 alices blog shop" {
		t.Errorf("the group: got %q", got)
	}
	names := slices.Repeat([]string{"*a*b*"}, StrangerNames+1)
	for who, want := range map[int]string{33: "64", 0: "0"} {
		if got := ask(t, dialAs(t, socket, who, who), Request{Verb: List, Names: names}); got != want {
			t.Errorf("%d, %d patterns: got %q, want %q", who, len(names), got, want)
		}
	}
	busy := 0
	for range 3 * strangerBurst {
		if got := ask(t, dialAs(t, socket, 33, 33), Request{Verb: List}); got == "75" {
			busy++
		}
	}
	if busy == 0 {
		t.Errorf("%d requests of one user in a moment were all answered", 3*strangerBurst)
	}
}

// TestTurnedAway: who runs no vassal is answered before it has said anything.
func TestTurnedAway(t *testing.T) {
	testenv.Need(t, testenv.Root)
	socket := serve(t, &backend{}, -1)
	c := dialAs(t, socket, mallory, mallory)
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || !strings.Contains(line, `"code":77`) || strings.Contains(line, "shop") {
		t.Errorf("got %q, %v", line, err)
	}
}

// TestVeiled: a user who may not read the file of its vassal learns where
// something is wrong, and not what stands there.
func TestVeiled(t *testing.T) {
	wrong := vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadValue, File: "/etc/vassals/x.ini", Line: 3, Key: "env", Message: "secret", Hint: "secret"}
	printed := vassal.Problem{Severity: vassal.Note, Code: vassal.CodeLastLines, Message: "its own"}
	v := Vassal{File: wrong.File, Problems: []vassal.Problem{wrong, printed}, Error: &wrong}
	if got := veiled(v); got.Error.Message != "secret" {
		t.Errorf("a file that everybody may read: %+v", got.Error)
	}
	included := wrong
	included.File = "/etc/vassals/secret.inc"
	if got := veil(included, v); got.Message == "secret" || got.Line != 3 {
		t.Errorf("another file, which may not be everybody's: %+v", got)
	}
	v.Private = true
	got := veiled(v)
	if b, err := json.Marshal(got); err != nil || bytes.Contains(b, []byte("secret")) || got.Error.Line != 3 || got.Problems[1].Message != "its own" {
		t.Errorf("%s %v", b, err)
	}
	if wrong.Message != "secret" || v.Problems[0].Message != "secret" {
		t.Error("the original was changed")
	}
}

func TestTime(t *testing.T) {
	b, err := json.Marshal(Time{time.Date(2026, 11, 23, 4, 5, 6, 7_890_000, time.FixedZone("x", 3600))})
	if got, want := string(b), `"2026-11-23T03:05:06.007Z"`; got != want || err != nil {
		t.Errorf("got %s, %v; want %s", got, err, want)
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, s := range []string{`{"v":1,"verb":"list"}`, `{"v":1,"verb":"reload","names":["a*",".ini"],"timeout":5}`,
		`{"v":1,"verb":"suspend","all":true,"status":503,"page":"aGk="}`, `{"v":1,"verb":"wait","names":["x"],"goal":"applied"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseRequest(line)
		if err != nil {
			if strings.ContainsAny(err.Error(), "\x00\x1b") {
				t.Errorf("not fit to be shown: %q", err)
			}
			return
		}
		if _, ok := ClassOf(r.Verb); !ok || r.Timeout < 0 || r.Timeout > MaxTimeout || len(r.Names) > MaxNames {
			t.Errorf("accepted %+v", r)
		}
		for _, n := range r.Names {
			match(n, "shop") // does not panic
		}
	})
}
