package kernel

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"liege/internal/testenv"
)

const (
	stageBinary = "/liege-stage"
	self        = "/tests"
	probeArg    = "probe"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == probeArg {
		runtime.LockOSThread()
		fmt.Println(probe(os.Args[2:]))
		return
	}
	os.Exit(m.Run())
}

// probe is what a child does in another domain: some steps, separated by
// commas, then the last word. It returns the context at the end, or what failed.
func probe(args []string) string {
	for step := range strings.SplitSeq(args[0], ",") {
		if err := take(step); err != nil {
			return fmt.Sprintf("%s: %v", step, err)
		}
	}
	if len(args) > 1 {
		return fmt.Sprintf("exec: %v", unix.Exec(args[1], args[1:], os.Environ()))
	}
	return contextOf("/proc/thread-self")
}

func take(step string) error {
	what, arg, _ := strings.Cut(step, "=")
	switch what {
	case "whoami":
		return nil
	case "current", "exec": // of this thread
		return os.WriteFile("/proc/thread-self/attr/"+what, []byte(arg), 0)
	case "nnp":
		return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	case "uid":
		_, _, errno := unix.RawSyscall(unix.SYS_SETUID, 1000, 0, 0)
		if errno != 0 {
			return errno
		}
		return nil
	case "proc":
		return changeProc(arg)
	}
	return errors.New("unknown step")
}

// changeProc gives the process a mount namespace with another /proc.
func changeProc(how string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	switch how {
	case "same":
		return nil
	case "read-only":
		return unix.Mount("", "/proc", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	case "missing":
		return unix.Unmount("/proc", unix.MNT_DETACH)
	case "forged": // a file that would take anything
		const forged = "/proc/self/attr"
		return errors.Join(unix.Mount("tmpfs", "/proc", "tmpfs", 0, ""), os.MkdirAll(forged, 0o777), os.WriteFile(forged+"/current", nil, 0o666))
	case "covered": // a mount on the real file's way
		return unix.Mount("tmpfs", "/proc/self/attr", "tmpfs", 0, "")
	}
	return errors.New("unknown way")
}

func contextOf(dir string) string {
	b, err := os.ReadFile(filepath.Join(dir, "attr/current"))
	if err != nil {
		return err.Error()
	}
	return strings.TrimRight(string(b), "\x00\n")
}

// an answer is what a child printed, and what it wrote to its status pipe.
type answer struct{ out, status string }

// ask starts a program in a domain, with a status pipe at descriptor 3.
func ask(t *testing.T, domain string, args ...string) answer {
	t.Helper()
	testenv.Need(t, testenv.Micro)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Env = []string{"PATH=/"}
	out, err := startIn(domain, cmd)
	w.Close()
	if _, failed := errors.AsType[*exec.ExitError](err); err != nil && !failed {
		t.Fatal(err)
	}
	status := make([]byte, 4096)
	n, _ := r.Read(status) // nothing at its end
	return answer{strings.TrimSpace(out), string(status[:n])}
}

// startIn runs cmd in a domain: the thread that forks says which.
func startIn(domain string, cmd *exec.Cmd) (string, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const attr = "/proc/thread-self/attr/exec"
	if err := os.WriteFile(attr, []byte(context(domain)), 0); err != nil {
		return "", err
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Start()
	if err := errors.Join(err, os.WriteFile(attr, nil, 0)); err != nil {
		return "", err
	}
	err = cmd.Wait()
	return out.String(), err
}

func context(domain string) string { return "u:r:" + domain + ":s0" }

// become are the arguments of liege-stage's constructor.
func become(into string, args ...string) []string {
	return append([]string{stageBinary, "--become", into, "3", "--", args[0]}, args...)
}

// setEnforcing switches enforcement.
func setEnforcing(t *testing.T, on string) {
	t.Helper()
	if err := os.WriteFile("/sys/fs/selinux/enforce", []byte(on), 0); err != nil {
		t.Fatal(err)
	}
}

func errno(e syscall.Errno) string { return e.Error() }
