package sandbox

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
	"liege/sandbox/stage"
)

// The test binary plays every part: libcontainer's init, a stage that can skip
// a step, a core that does what a test asks, and an Emperor to be killed.
func TestMain(m *testing.M) {
	Init()
	switch filepath.Base(os.Args[0]) {
	case "liege-stage":
		runtime.LockOSThread()
		fail(fakeStage())
	case "fake-core":
		fail(fakeCore(os.Args[1:]))
	case "fake-client":
		fail(fakeClient(os.Args[1]))
	}
	if len(os.Args) > 1 && os.Args[1] == "fake-emperor" {
		if os.Args[3] == "sealed" {
			if err := Seal(); err != nil {
				fail(err)
			}
		}
		fail(fakeEmperor(os.Args[2:]))
	}
	os.Exit(testenv.Main(m))
}

func fail(err error) {
	if err != nil {
		fmt.Println("fake:", err)
		os.Exit(9)
	}
	os.Exit(0)
}

// fakeStage drops privileges as the real one, but the step named by skip=STEP
// in HookEnv, and becomes the fake core.
func fakeStage() error {
	fd, err := strconv.Atoi(os.Args[2])
	if err != nil {
		return err
	}
	var p stage.Plan
	if err := json.NewDecoder(os.NewFile(uintptr(fd), "plan")).Decode(&p); err != nil {
		return err
	}
	if slices.Contains(p.HookEnv, "report") {
		text, _ := json.Marshal(&stage.Failure{Step: stage.StepAttach, Msg: "as asked"})
		_, err := unix.Write(p.Files.Status(), text)
		return err
	}
	for _, a := range p.Attach {
		if err := unix.MoveMount(p.Files.Mount(a.Mount), "", unix.AT_FDCWD, a.Target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("attach %s: %w", a.Target, err)
		}
	}
	steps := []fakeStep{
		{"score", func() error { return setOwnScore(p.OOMScore) }},
		{"bounding", dropBounding},
		{"groups", func() error { return unix.Setgroups(p.Groups) }},
		{"gid", func() error { return raw(unix.SYS_SETRESGID, p.GID) }},
		{"uid", func() error { return raw(unix.SYS_SETRESUID, p.UID) }},
		{"caps", dropCaps},
		{"nnp", func() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }},
		{"seccomp", loadSeccomp},
	}
	if slices.Contains(p.HookEnv, "skip=nnp") { // then it takes root
		steps = append([]fakeStep{{"seccomp", loadSeccomp}}, steps[:len(steps)-1]...)
	}
	for _, step := range steps {
		if slices.Contains(p.HookEnv, "skip="+step.name) {
			continue
		}
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	unix.CloseOnExec(p.Files.Plan())
	unix.CloseOnExec(p.Files.Status())
	return unix.Exec(StagePath, append([]string{"fake-core"}, p.Args...), p.Env)
}

// setOwnScore raises the score; one of 0 stays as it is.
func setOwnScore(score int) error {
	if score == 0 {
		return nil
	}
	return os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0)
}

type fakeStep struct {
	name string
	do   func() error
}

func raw(call uintptr, id int) error {
	_, _, errno := unix.RawSyscall(call, uintptr(id), uintptr(id), uintptr(id))
	if errno != 0 {
		return errno
	}
	return nil
}

func dropBounding() error {
	for c := uintptr(0); c <= 63; c++ {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err == unix.EINVAL {
			return nil
		} else if err != nil {
			return err
		}
	}
	return nil
}

func dropCaps() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capset(&hdr, &data[0])
}

func uintptrOf[T any](p *T) uintptr { return uintptr(unsafe.Pointer(p)) }

func loadSeccomp() error {
	allow := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	prog := unix.SockFprog{Len: 1, Filter: &allow}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptrOf(&prog), 0, 0)
}

// fakeCore does what its first argument says. What it prints goes to the log.
func fakeCore(args []string) error {
	switch args[0] {
	case "exit":
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		os.Exit(n)
	case "wait": // until asked to end
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("waiting")
		<-c
		return nil
	case "hold": // so many MiB, and children that wait
		mib, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		kept := bytes.Repeat([]byte{1}, mib<<20)
		for range args[2:] {
			if err := (&exec.Cmd{Path: "/proc/self/exe", Args: []string{"fake-core", "wait"}, Env: os.Environ(), Stdout: os.Stdout}).Start(); err != nil {
				return err
			}
		}
		err = fakeCore([]string{"wait"})
		runtime.KeepAlive(kept)
		return err
	case "buffers": // says how many MiB are sent that nobody reads
		return fakeBuffers()
	case "forkbomb": // children that fork on; nobody waits
		fmt.Println("waiting")
		for {
			_ = (&exec.Cmd{Path: "/proc/self/exe", Args: []string{"fake-core", "forkbomb"}}).Start()
			time.Sleep(time.Millisecond)
		}
	case "eat": // memory
		var kept [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			kept = append(kept, b)
			_ = kept
		}
	case "cat":
		for _, name := range args[1:] {
			text, err := os.ReadFile(name)
			fmt.Printf("%s\n%s", name, text)
			if err != nil {
				fmt.Println(err)
			}
		}
	case "write": // tries to write to each
		for _, name := range args[1:] {
			fmt.Println(name, os.WriteFile(name, []byte("x"), 0o600))
		}
	case "escape":
		return fakeEscape(args[1:])
	case "ls":
		for _, dir := range args[1:] {
			es, err := os.ReadDir(dir)
			names := []string{}
			for _, e := range es {
				names = append(names, e.Name())
			}
			fmt.Println(dir, strings.Join(names, " "), err)
		}
	case "exists":
		for _, name := range args[1:] {
			_, err := os.Lstat(name)
			fmt.Println(name, err == nil)
		}
	}
	return nil
}
