package stage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"liege/vassal"
	"liege/vassal/action"
)

// Plan is all that the stage has to do. The Emperor resolved every name to a
// number and every path to a descriptor before it made a Plan: the stage looks
// up nothing. It travels as JSON in a sealed memfd.
//
// The order is that of the fields: attach the mounts, as-root hooks, what they
// left running is killed, rlimits, bounding set, groups, gid, uid,
// capabilities, no_new_privs, as-user hooks, what they left is killed,
// Landlock, ByExec the context of the next exec, seccomp; then either re-exec into the
// constructor: not dumpable, setcon, read back, exec of the core; or, ByExec, exec of the
// core in its context.
type Plan struct {
	Name     vassal.Name   `json:"name"`
	Files    Donated       `json:"files"`
	Attach   []Attach      `json:"attach,omitempty"`
	Hooks    []vassal.Hook `json:"hooks,omitempty"` // of every phase, in the file's order
	HookTime int           `json:"hook_time"`       // seconds that one hook may take; at least 1
	// KeepDaemons lets live what hooks leave running.
	KeepDaemons bool            `json:"keep_daemons,omitempty"`
	Rlimits     []vassal.Rlimit `json:"rlimits,omitempty"` // of the core: those that a Go program lives with; others are refused
	OOMScore    int             `json:"oom_score_adj"`     // raised to it; lowered only where the kernel allows
	Umask       int             `json:"umask"`             // from the as-user hooks on; 022 before
	UID         int             `json:"uid"`
	GID         int             `json:"gid"`
	Groups      []int           `json:"groups"`
	Caps        []int           `json:"caps,omitempty"`       // capabilities that the vassal keeps, by number
	Landlock    *Landlock       `json:"landlock,omitempty"`   // nil: none
	Seccomp     Program         `json:"seccomp"`              // classic BPF, compiled by the Emperor
	NoSeccomp   bool            `json:"no_seccomp,omitempty"` // the operator's word: no filter
	Own         string          `json:"own,omitempty"`        // the stage's own SELinux context, checked first; empty: SELinux is off
	HookCon     string          `json:"hook_con,omitempty"`   // SELinux context of root hooks' commands; empty: the stage's own
	TmpLabel    string          `json:"tmp_label,omitempty"`  // SELinux context of a tmpfs that a hook mounts; empty: as the policy has it
	Context     string          `json:"context,omitempty"`    // canonical form of the vassal's; empty: none
	ByExec      bool            `json:"by_exec,omitempty"`    // the context is entered by the exec of the core (attr/exec), not by setcon
	Line        vassal.Origin   `json:"line"`                 // of the context
	Exec        string          `json:"exec"`                 // the core's path inside the sandbox
	Args        []string        `json:"args"`                 // from argv[0]
	Env         []string        `json:"env"`                  // of the core; hooks get HookEnv
	HookEnv     []string        `json:"hook_env"`             // all of a root hook's environment; as-user hooks have putenv's too
	Dir         string          `json:"dir"`                  // working directory of the core; empty: where the hooks left it
}

// Donated are the file descriptors handed to the stage, in this order and no
// others: the listeners from FirstFD on, then control, app, plan, status, then
// the detached mounts; and, where there are hooks before the root is entered,
// their HostPlan and the log for their output. The stage gives the listeners,
// control and app to the core.
type Donated struct {
	Listeners int  `json:"listeners"`
	Mounts    int  `json:"mounts"`
	Host      bool `json:"host,omitempty"` // there is a HostPlan
	// Guest: the process becomes a command beside a core that runs (liege
	// enter). It is given its plan and status, and hands on nothing.
	Guest bool `json:"guest,omitempty"`
}

// FirstFD is the first donated descriptor.
const FirstFD = 3

// Descriptor numbers, given how many listeners there are.
func (d Donated) Control() int    { return FirstFD + d.Listeners }
func (d Donated) App() int        { return FirstFD + d.Listeners + 1 }
func (d Donated) Status() int     { return d.Plan() + 1 }
func (d Donated) Mount(i int) int { return d.Plan() + 2 + i }
func (d Donated) Plan() int {
	if d.Guest {
		return FirstFD
	}
	return FirstFD + d.Listeners + 2
}
func (d Donated) HostPlan() int { return d.Mount(d.Mounts) }
func (d Donated) HostLog() int  { return d.Mount(d.Mounts) + 1 }

// Attach puts a detached mount (open_tree, mount_setattr: KERNEL 14) at Target
// inside the sandbox with move_mount.
type Attach struct {
	Mount  int           `json:"mount"` // index for Donated.Mount
	Target string        `json:"target"`
	At     vassal.Origin `json:"at"`
}

// Filter is one instruction of classic BPF (struct sock_filter).
type Filter struct {
	Code   uint16
	Jt, Jf uint8
	K      uint32
}

// Step names a step of the stage in a Failure.
type Step string

// The steps, in their order.
const (
	StepPlan     Step = "plan"
	StepDomain   Step = "domain of the stage"
	StepAttach   Step = "mount"
	StepLimits   Step = "limits"
	StepIdentity Step = "identity"
	StepCaps     Step = "capabilities"
	StepNoNew    Step = "no_new_privs"
	StepLandlock Step = "landlock"
	StepSeccomp  Step = "seccomp"
	StepSetcon   Step = "setcon"
	StepExec     Step = "exec"
)

// HookStep is the step of the hooks of a phase.
func HookStep(p vassal.Phase) Step { return Step("hook " + string(p)) }

// Hook reports whether s is one of hooks.
func (s Step) Hook() bool { return strings.HasPrefix(string(s), "hook ") }

// MaxFailure bounds a Failure on the wire, in bytes.
const MaxFailure = 4 << 10

// MaxPlan bounds a Plan on the wire, in bytes.
const MaxPlan = 4 << 20

// Failure is what the stage reports on the status channel when it cannot
// become the core: one packet of JSON. End of file on that channel means
// nothing.
type Failure struct {
	Step   Step          `json:"step"`
	At     vassal.Origin `json:"at"`
	What   string        `json:"what,omitempty"` // the hook as written, the path
	Msg    string        `json:"msg"`            // why, with the errno's text
	Errno  int           `json:"errno,omitempty"`
	Output string        `json:"output,omitempty"` // last lines of a hook's command
}

func (f *Failure) Error() string {
	var b strings.Builder
	if f.At.File != "" && f.At.Line > 0 {
		fmt.Fprintf(&b, "%s:%d: ", f.At.File, f.At.Line)
	}
	fmt.Fprintf(&b, "%s: ", f.Step)
	if f.What != "" {
		fmt.Fprintf(&b, "%s: ", f.What)
	}
	b.WriteString(f.Msg)
	return b.String()
}

// ParseFailure decodes a packet of the status channel. The packet comes from
// inside a sandbox, in the worst case from the tenant: lengths are bounded and
// control characters replaced. What the constructor, which has no JSON of its
// own, leaves out (the path, the context and its line) is filled in from p,
// which may be nil.
func ParseFailure(packet []byte, p *Plan) *Failure {
	f := &Failure{}
	if len(packet) > MaxFailure {
		return &Failure{Step: StepExec, Msg: "the stage's report is too long"}
	}
	if err := json.Unmarshal(packet, f); err != nil || f.Step == "" {
		return &Failure{Step: StepExec, Msg: fmt.Sprintf("the stage's report is unreadable: %q", clip(string(packet), 80))}
	}
	f.Step, f.What, f.Msg = Step(printable(string(f.Step))), printable(f.What), printable(f.Msg)
	f.Output = printable(f.Output)
	f.At.File = printable(f.At.File)
	if f.What == "" && (f.Step == StepExec || f.Step == StepSetcon) { // the constructor's
		if f.Errno > 0 {
			f.Msg = strings.TrimPrefix(f.Msg+": "+syscall.Errno(f.Errno).Error(), ": ")
		}
		if p != nil && f.Step == StepExec {
			f.What = p.Exec
		}
		if p != nil && f.Step == StepSetcon {
			f.What = p.Context
		}
	}
	if p != nil && f.At == (vassal.Origin{}) && (f.Step == StepSetcon || f.Step == StepExec && p.ByExec) {
		f.At = p.Line // the context's: the policy has the word on such an exec
	}
	return f
}

// Encode returns p as it travels, or an error that says why no stage would
// accept it.
func (p *Plan) Encode() ([]byte, error) { return encode(p, "the plan has") }

// Decode is the reverse of Encode. Unknown fields, trailing bytes and plans
// that make no sense are errors.
func Decode(b []byte) (*Plan, error) {
	p := new(Plan)
	return p, decode(b, p)
}

// checked is a plan that tells what in it cannot be meant.
type checked interface{ check() error }

func encode(p checked, subject string) ([]byte, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	b, err := json.Marshal(p)
	if err == nil && len(b) > MaxPlan {
		err = fmt.Errorf("%s %d bytes; at most %d are allowed", subject, len(b), MaxPlan)
	}
	return b, err
}

func decode(b []byte, p checked) error {
	if len(b) > MaxPlan {
		return fmt.Errorf("the plan has %d bytes; at most %d are allowed", len(b), MaxPlan)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(p); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("bytes after the plan")
	}
	return p.check()
}

// Limits of a Plan.
const (
	maxID      = 1<<32 - 2
	maxFDs     = 4096
	maxFilters = 4096 // BPF_MAXINSNS
)

// check reports the first thing in p that cannot be meant.
func (p *Plan) check() error {
	switch {
	case p.Files.Guest && (p.Files.Listeners > 0 || p.Files.Mounts > 0 || len(p.Attach) > 0 || len(p.Hooks) > 0):
		return errors.New("plan: a guest has neither listeners, mounts nor hooks")
	case p.Files.Listeners < 0 || p.Files.Mounts < 0 || p.Files.Listeners+p.Files.Mounts > maxFDs:
		return fmt.Errorf("plan: %d listeners, %d mounts", p.Files.Listeners, p.Files.Mounts)
	case p.UID < 0 || p.UID > maxID || p.GID < 0 || p.GID > maxID:
		return fmt.Errorf("plan: uid %d, gid %d", p.UID, p.GID)
	case p.HookTime < 1 && len(p.Hooks) > 0:
		return errors.New("plan: hooks without a time limit")
	case (len(p.Seccomp) == 0) != p.NoSeccomp || len(p.Seccomp) > maxFilters:
		return fmt.Errorf("plan: a seccomp filter of %d instructions", len(p.Seccomp))
	case p.OOMScore < -1000 || p.OOMScore > 1000:
		return fmt.Errorf("plan: oom_score_adj %d", p.OOMScore)
	case p.Umask < 0 || p.Umask > 0o777:
		return fmt.Errorf("plan: umask %#o", p.Umask)
	case (p.Context != "" || p.HookCon != "") && p.Own == "":
		return errors.New("plan: a context to enter, but none of the stage's own")
	case p.ByExec && p.Context == "":
		return errors.New("plan: an exec into a context, but no context")
	case !path.IsAbs(p.Exec) || len(p.Args) == 0:
		return fmt.Errorf("plan: exec %q with %d arguments", p.Exec, len(p.Args))
	case p.Dir != "" && !path.IsAbs(p.Dir):
		return fmt.Errorf("plan: directory %q is not absolute", p.Dir)
	}
	for _, c := range p.Caps {
		if c < 0 || c > unix.CAP_LAST_CAP {
			return fmt.Errorf("plan: capability %d", c)
		}
	}
	for _, g := range p.Groups {
		if g < 0 || g > maxID {
			return fmt.Errorf("plan: group %d", g)
		}
	}
	return errors.Join(p.checkStrings(), p.checkMounts(), p.checkLimits(), p.checkHooks())
}

// checkStrings refuses what execve(2) would cut short.
func (p *Plan) checkStrings() error {
	for _, list := range [][]string{p.Args, p.Env, p.HookEnv, {p.Exec, p.Dir, p.Context, p.HookCon, p.TmpLabel, p.Own}} {
		for _, s := range list {
			if strings.ContainsRune(s, 0) {
				return fmt.Errorf("plan: a NUL byte in %q", clip(s, 40))
			}
		}
	}
	return nil
}

func (p *Plan) checkMounts() error {
	for _, a := range p.Attach {
		if a.Mount < 0 || a.Mount >= p.Files.Mounts || !path.IsAbs(a.Target) || path.Clean(a.Target) == "/" {
			return fmt.Errorf("plan: mount %d at %q", a.Mount, clip(a.Target, 80))
		}
	}
	return nil
}

func (p *Plan) checkLimits() error {
	for _, l := range p.Rlimits {
		if _, ok := rlimits[l.Resource]; !ok {
			return fmt.Errorf("plan: limit %q is for workers, the core does not start under it", l.Resource)
		}
	}
	return nil
}

func (p *Plan) checkHooks() error {
	last := false
	for _, h := range p.Hooks {
		if place := h.Phase.Place(); place != vassal.AtRoot && place != vassal.AtUser {
			return fmt.Errorf("plan: hook of phase %q", h.Phase)
		}
		c, err := action.Parse(h)
		if err != nil {
			return fmt.Errorf("plan: %s: %w", hookText(h), err)
		}
		if last && h.Phase == vassal.AsUser {
			return fmt.Errorf("plan: %s comes after setcon, which is the last step", hookText(h))
		}
		if c.Kind == action.Setcon {
			if p.Context == "" || p.ByExec {
				return errors.New("plan: a setcon hook, but no context to enter by it")
			}
			last = true
		}
		if c.Kind == action.Chown && (c.UID < 0 || c.GID < 0) {
			return fmt.Errorf("plan: %s: names must be resolved before", hookText(h))
		}
	}
	return nil
}

// Argv is the argument list that starts a stage which was given d: the fd
// number of its plan. Its environment is to be empty.
func Argv(d Donated) []string {
	way := argPlan
	if d.Guest {
		way = argGuest
	}
	return []string{"liege-stage", way, strconv.Itoa(d.Plan())}
}

// Through says what is executed at the end of p so that program runs in the
// vassal's domain: itself or, where the domain's only way in is the core's file
// (KERNEL 13), the core, which executes it in turn.
func (p *Plan) Through(program string, argv []string) (exec string, args []string) {
	if !p.ByExec {
		return program, argv
	}
	return p.Exec, slices.Concat([]string{p.Args[0], ArgRun, program}, argv)
}

// hookText is h as written, a private one without its argument.
func hookText(h vassal.Hook) string {
	option := h.Option()
	switch {
	case h.Private:
		return fmt.Sprintf("%s = !%s:…", option, h.Action)
	case !strings.HasPrefix(option, "hook-"):
		return fmt.Sprintf("%s = %s", option, clip(h.Arg, 200))
	}
	return fmt.Sprintf("%s = %s:%s", option, h.Action, clip(h.Arg, 200))
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// printable replaces what could move a terminal's cursor or break a log line's
// frame; newlines and tabs stay.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
}
