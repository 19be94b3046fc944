package stage

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"liege/vassal"
)

// The ways of calling the binary; --become is the constructor's.
const (
	argPlan   = "--plan"   // FD: a whole start
	argGuest  = "--guest"  // FD: a command beside a core that runs
	argHook   = "--hook"   // FD: one command of an as-user hook
	argHost   = "--host"   // FD STATUSFD OUTPUTFD: hooks where the host's files are
	argBecome = "--become" // CONTEXT STATUSFD -- PROGRAM ARG…
)

// Main is liege-stage. The caller has locked its goroutine to the process's
// first thread and returns what Main returns as the exit status. When all goes
// well Main does not return: the process has become the core.
func Main(args []string) int {
	os.Clearenv()
	if len(args) > 1 && args[1] == argHost {
		return hostMain(args)
	}
	if len(args) != 3 || args[1] != argPlan && args[1] != argGuest && args[1] != argHook {
		if len(args) > 3 && args[1] == argBecome {
			return report(atoi(args[3]), &Failure{Step: StepSetcon, Msg: "this liege-stage was built without cgo, so it has no constructor"})
		}
		fmt.Fprintln(os.Stderr, "liege-stage is started by liege-emperor, not by hand")
		return 2
	}
	fd := atoi(args[2])
	if fd < FirstFD {
		fmt.Fprintln(os.Stderr, "liege-stage: bad descriptor number")
		return 2
	}
	r, err := newRun(fd, "/proc/self/exe")
	if err != nil {
		return report(fd+1, failure(StepPlan, err))
	}
	if args[1] == argHook {
		return report(r.status, r.hookChild())
	}
	if r.guest = args[1] == argGuest; r.guest {
		return report(r.status, r.start(guestSteps()))
	}
	return report(r.status, r.start(steps()))
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

// run is one start, on one thread.
type run struct {
	planFD int
	status int
	proc   int    // /proc, opened before any hook could mount over it
	root   int    // /
	self   int    // this binary
	exe    string // path of this binary for children
	guest  bool   // argGuest
	p      *Plan
	env    []string      // set by putenv
	late   time.Time     // when the hook that runs has to be done
	limit  time.Duration // of that hook
}

// newRun prepares a run; exe is the path of liege-stage.
func newRun(planFD int, exe string) (*run, error) {
	r := &run{planFD: planFD, status: planFD + 1, exe: exe}
	// What the Emperor donated arrives without close-on-exec, and no child may
	// hold it (KERNEL 7).
	if err := unix.CloseRange(FirstFD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("close_range: %w", err)
	}
	var err error
	if r.proc, err = openProc("/proc"); err != nil {
		return nil, err
	}
	if r.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open /: %w", err)
	}
	if r.self, err = unix.Open(r.exe, unix.O_PATH|unix.O_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("open %s: %w", r.exe, err)
	}
	return r, nil
}

// step is one privileged act. The list of them is the security argument of
// this package, so each says why it stands where it stands.
type step struct {
	name string
	do   func(*run) error
}

// steps are all steps of a start in their order.
func steps() []step {
	return []step{
		{"plan", (*run).readPlan},
		// Before anything else: a domain that was not entered must not show
		// only at the end (KERNEL 9).
		{"domain", (*run).checkDomain},
		{"subreaper", (*run).becomeSubreaper},
		// Before any hook, so that hooks see the app's directory and nothing
		// can be put in a mount's way.
		{"mounts", (*run).attach},
		{"in-jail", (*run).inJailHooks},
		{"post-jail", (*run).postJailHooks},
		{"as-root", (*run).rootHooks},
		// Nothing privileged survives its phase (KERNEL 3).
		{"leftovers of as-root", (*run).killRootLeftovers},
		// As root: hard limits and a lower score need it.
		{"limits", (*run).setLimits},
		{"oom score", (*run).setOOMScore},
		// While CAP_SETPCAP is there: setuid alone leaves the set full.
		{"bounding set", (*run).dropBounding},
		// While CAP_SETGID is there, so before the uid.
		{"groups", (*run).setGroups},
		{"gid", (*run).setGID},
		{"uid", (*run).setUID},
		// setuid from 0 clears them but for those that are kept; a vassal with
		// uid 0 keeps no others either.
		{"capabilities", (*run).dropCaps},
		// Before the first command of the tenant's (KERNEL 3).
		{"no_new_privs", (*run).noNewPrivs},
		{"umask", (*run).setUmask},
		{"as-user", (*run).userHooks},
		{"leftovers of as-user", (*run).killUserLeftovers},
		{"directory", (*run).enterDir},
		// After the mounts are final and the last command of a hook has been
		// started, which puts up a fence of its own.
		{"landlock", (*run).setLandlock},
		// Before a filter that may refuse to open the attribute's file, and
		// after the last program but the core was executed.
		{"context of the exec", (*run).setContext},
		// Last: the steps above need calls that the list forbids.
		{"seccomp", (*run).setSeccomp},
		{"become", (*run).become},
	}
}

// guestSteps are the steps of a command beside a core that runs. The sandbox is
// made, so it has the same way down and nothing else: no mount, no hook, and
// above all nobody that it would take for a leftover.
func guestSteps() []step {
	own := []step{{"plan", (*run).readPlan}, {"domain", (*run).checkDomain}, {"terminal", (*run).giveTerminal}}
	all := steps()
	down := slices.IndexFunc(all, func(s step) bool { return s.name == "limits" })
	return append(own, slices.DeleteFunc(all[down:], func(s step) bool {
		return s.name == "as-user" || s.name == "leftovers of as-user"
	})...)
}

// giveTerminal makes the pseudo-terminal the user's, who may want to open it
// again. It is the sandbox's own: nobody's outside hangs on it.
func (r *run) giveTerminal() error {
	if _, err := unix.IoctlGetTermios(0, unix.TCGETS); err != nil {
		return nil // there is none
	}
	if err := unix.Fchown(0, r.p.UID, -1); err != nil {
		return failed(StepIdentity, "the terminal", err)
	}
	return nil
}

// start does the steps and returns what stopped it.
func (r *run) start(steps []step) *Failure {
	for _, s := range steps {
		if err := s.do(r); err != nil {
			return failure(StepPlan, err)
		}
	}
	return failure(StepExec, errors.New("the last step returned"))
}

// failure returns err as a Failure: itself if it is one, else one of step.
func failure(s Step, err error) *Failure {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f
	}
	f := &Failure{Step: s, Msg: err.Error()}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		f.Errno = int(errno)
	}
	return f
}

// failed is failure for the common case.
func failed(s Step, what string, err error) error {
	f := failure(s, err)
	f.What = what
	return f
}

// report sends f on the status channel, and returns the exit status. It writes
// to stderr, the vassal's log, only if nobody listens there.
func report(status int, f *Failure) int {
	var b []byte
	var err error
	for n := MaxFailure / 4; n > 0; n /= 2 { // escapes may make six bytes of one
		f.Output, f.Msg = tail(printable(f.Output), n), clip(printable(f.Msg), n)
		f.What, f.At.File = clip(printable(f.What), n), clip(f.At.File, n)
		if b, err = json.Marshal(f); err != nil || len(b) <= MaxFailure {
			break
		}
	}
	if err == nil {
		_, err = unix.Write(status, b)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "liege-stage: %v (and no report: %v)\n", f, err)
	}
	return 1
}

// tail is the end of s, whole lines where it has to be cut.
func tail(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	for i := range len(s) - 1 {
		if s[i] == '\n' {
			return s[i+1:]
		}
	}
	return s
}

func (r *run) readPlan() error {
	b, err := readSealed(r.planFD, MaxPlan)
	if err != nil {
		return failed(StepPlan, "", err)
	}
	if r.p, err = Decode(b); err != nil {
		return failed(StepPlan, "", err)
	}
	if r.p.Files.Guest != r.guest {
		return failed(StepPlan, "", errors.New("it is of another kind than what was asked for"))
	}
	if r.p.Files.Plan() != r.planFD {
		return failed(StepPlan, "", fmt.Errorf("it says it is fd %d but came as %d", r.p.Files.Plan(), r.planFD))
	}
	for fd := FirstFD; fd < r.p.Files.Mount(r.p.Files.Mounts); fd++ {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil {
			return failed(StepPlan, "", fmt.Errorf("donated fd %d: %w", fd, err))
		}
	}
	unix.Umask(0o022)
	// An inherited working directory may lie outside this root (CVE-2024-21626).
	if err := unix.Chdir("/"); err != nil {
		return failed(StepPlan, "chdir /", err)
	}
	return nil
}

// checkDomain compares the stage's own SELinux context with the planned one.
func (r *run) checkDomain() error {
	if r.p.Own == "" {
		return nil
	}
	own, err := r.readProc("thread-self/attr/current")
	if err != nil {
		return failed(StepDomain, r.p.Own, err)
	}
	if got := trimContext(own); got != r.p.Own {
		return failed(StepDomain, r.p.Own, fmt.Errorf("the stage runs as %s; is the policy module installed, and are the binaries labelled?", got))
	}
	return nil
}

// becomeSubreaper makes orphans of hooks children of the stage, where it is
// not the first process of a pid namespace.
func (r *run) becomeSubreaper() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return failed(StepPlan, "", fmt.Errorf("PR_SET_CHILD_SUBREAPER: %w", err))
	}
	return nil
}

func (r *run) inJailHooks() error   { return r.hooks(vassal.InJail) }
func (r *run) postJailHooks() error { return r.hooks(vassal.PostJail) }
func (r *run) rootHooks() error     { return r.hooks(vassal.AsRoot) }
func (r *run) userHooks() error     { return r.hooks(vassal.AsUser) }

func (r *run) killRootLeftovers() error { return r.unlessKept(HookStep(vassal.AsRoot)) }
func (r *run) killUserLeftovers() error { return r.unlessKept(HookStep(vassal.AsUser)) }

// unlessKept kills what hooks left, unless the operator wants it to live.
func (r *run) unlessKept(s Step) error {
	if r.p.KeepDaemons {
		return nil
	}
	return r.killLeftovers(s)
}

// hookTime is how long h may take, and of none, how long what hooks left may
// take to die.
func (r *run) hookTime(h vassal.Hook) time.Duration {
	if h.Time > 0 {
		return time.Duration(h.Time) * time.Second
	}
	return time.Duration(max(r.p.HookTime, 1)) * time.Second
}

// environ is env with what putenv set: the last of a name wins.
func (r *run) environ(env []string) []string {
	all := slices.Concat(env, r.env)
	seen := map[string]bool{}
	var out []string
	for _, kv := range slices.Backward(all) {
		if name := envName(kv); !seen[name] {
			seen[name] = true
			out = append(out, kv)
		}
	}
	slices.Reverse(out)
	return out
}

func envName(kv string) string {
	for i := range len(kv) {
		if kv[i] == '=' {
			return kv[:i]
		}
	}
	return kv
}

func (r *run) setUmask() error {
	unix.Umask(r.p.Umask)
	return nil
}

// enterDir is done as the tenant: a directory that the user cannot enter is
// an error of the file, not something root steps into.
func (r *run) enterDir() error {
	if r.p.Dir == "" {
		return nil
	}
	if err := unix.Chdir(r.p.Dir); err != nil {
		return failed(StepExec, "chdir "+r.p.Dir, err)
	}
	return nil
}
