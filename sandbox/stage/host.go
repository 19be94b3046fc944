package stage

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/action"
)

// HostPlan is what the stage does where the host's files are visible: hooks of
// root's, either in the Emperor's namespaces or in the vassal's before its root
// is entered. It travels as a Plan does, and becomes nothing afterwards: what a
// hook left running is killed, and the program ends.
type HostPlan struct {
	Hooks    []vassal.Hook `json:"hooks"`
	HookTime int           `json:"hook_time"`          // as Plan.HookTime
	HookEnv  []string      `json:"hook_env"`           // all of a command's environment
	Own      string        `json:"own,omitempty"`      // as Plan.Own
	HookCon  string        `json:"hook_con,omitempty"` // as Plan.HookCon
	Proc     string        `json:"proc"`               // where the /proc of its pid namespace is mounted
}

// HostArgv is the argument list that starts a stage with a HostPlan: the
// numbers of the descriptors of its plan, of a status channel, and of what
// takes its output; 1: that is its standard output.
func HostArgv(plan, status, output int) []string {
	return []string{"liege-stage", argHost, strconv.Itoa(plan), strconv.Itoa(status), strconv.Itoa(output)}
}

// Encode returns p as it travels, or an error that says why no stage would
// accept it.
func (p *HostPlan) Encode() ([]byte, error) { return encode(p, "the hooks have") }

func decodeHost(b []byte) (*HostPlan, error) {
	p := new(HostPlan)
	return p, decode(b, p)
}

// check reports the first thing in p that cannot be meant.
func (p *HostPlan) check() error {
	switch {
	case p.HookTime < 1:
		return errors.New("plan: hooks without a time limit")
	case p.HookCon != "" && p.Own == "":
		return errors.New("plan: a context to enter, but none of the stage's own")
	case !path.IsAbs(p.Proc):
		return fmt.Errorf("plan: proc at %q", clip(p.Proc, 80))
	}
	for _, s := range append([]string{p.Own, p.HookCon, p.Proc}, p.HookEnv...) {
		if strings.ContainsRune(s, 0) {
			return fmt.Errorf("plan: a NUL byte in %q", clip(s, 40))
		}
	}
	for _, h := range p.Hooks {
		if place := h.Phase.Place(); place != vassal.OfEmperor && place != vassal.AtEmperor && place != vassal.AtHost {
			return fmt.Errorf("plan: hook of phase %q", h.Phase)
		}
		if c, err := action.Parse(h); err != nil {
			return fmt.Errorf("plan: %s: %w", hookText(h), err)
		} else if c.Kind == action.Chown && (c.UID < 0 || c.GID < 0) {
			return fmt.Errorf("plan: %s: names must be resolved before", hookText(h))
		}
	}
	return nil
}

// hostMain is Main with argHost.
func hostMain(args []string) int {
	if len(args) != 5 {
		return 2
	}
	plan, status, output := atoi(args[2]), atoi(args[3]), atoi(args[4])
	r := &run{planFD: plan, status: status, exe: "/proc/self/exe"}
	if err := r.host(output); err != nil {
		return report(status, failure(StepPlan, err))
	}
	return 0
}

// host does what the plan says.
func (r *run) host(output int) error {
	if err := unix.CloseRange(FirstFD, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close_range: %w", err)
	}
	if output > 1 {
		for std := 1; std <= 2; std++ {
			if err := unix.Dup3(output, std, 0); err != nil {
				return fmt.Errorf("output: %w", err)
			}
		}
	}
	b, err := readSealed(r.planFD, MaxPlan)
	if err != nil {
		return err
	}
	p, err := decodeHost(b)
	if err != nil {
		return err
	}
	r.p = &Plan{Hooks: p.Hooks, HookTime: p.HookTime, HookEnv: p.HookEnv, Own: p.Own, HookCon: p.HookCon}
	if r.proc, err = openProc(p.Proc); err != nil {
		return err
	}
	unix.Umask(0o022)
	if err := unix.Chdir("/"); err != nil {
		return failed(StepPlan, "chdir /", err)
	}
	if r.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open /: %w", err)
	}
	if err := errors.Join(r.checkDomain(), r.becomeSubreaper()); err != nil {
		return err
	}
	var last Step
	for _, phase := range vassal.Phases() {
		if err = r.hooks(phase); err != nil {
			break
		}
		last = HookStep(phase)
	}
	// What hooks left dies in any case: nobody would end it with the vassal.
	if kerr := r.killLeftovers(last); err == nil {
		err = kerr
	}
	return err
}
