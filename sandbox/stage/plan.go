// Package stage is the program that runs first inside a sandbox: it runs the
// vassal's hooks, drops privileges, enters the SELinux domain and becomes the
// core. It is linked into its own small static binary.
package stage

import (
	"fmt"
	"strings"

	"liege/vassal"
)

// Plan is all that the stage has to do. The Emperor resolved every name to a
// number and every path to a descriptor before it made a Plan: the stage looks
// up nothing. It travels as JSON in a sealed memfd.
//
// The order is that of the fields: attach the mounts, as-root hooks, what they
// left running is killed, rlimits, bounding set, groups, gid, uid,
// capabilities, no_new_privs, as-user hooks, what they left is killed,
// seccomp, re-exec into the constructor: not dumpable, setcon, read back, exec
// of the core.
type Plan struct {
	Name     vassal.Name     `json:"name"`
	Files    Donated         `json:"files"`
	Attach   []Attach        `json:"attach,omitempty"`
	Hooks    []vassal.Hook   `json:"hooks,omitempty"` // of every phase, in the file's order
	HookTime int             `json:"hook_time"`       // seconds that one hook may take
	Rlimits  []vassal.Rlimit `json:"rlimits,omitempty"`
	OOMScore int             `json:"oom_score_adj"`
	Umask    int             `json:"umask"`
	UID      int             `json:"uid"`
	GID      int             `json:"gid"`
	Groups   []int           `json:"groups"`
	Seccomp  []Filter        `json:"seccomp"`           // classic BPF, compiled by the Emperor
	Own      string          `json:"own,omitempty"`     // the stage's own SELinux context, checked first; empty: SELinux is off
	Context  string          `json:"context,omitempty"` // canonical form of the vassal's; empty: none
	Line     vassal.Origin   `json:"line"`              // of the context
	Exec     string          `json:"exec"`              // the core's path inside the sandbox
	Args     []string        `json:"args"`              // from argv[0]
	Env      []string        `json:"env"`               // of the core; hooks get HookEnv
	HookEnv  []string        `json:"hook_env"`
	Dir      string          `json:"dir"` // working directory of the core
}

// Donated are the file descriptors handed to the stage, in this order and no
// others: the listeners from FirstFD on, then control, app, plan, status, then
// the detached mounts. The stage gives the listeners, control and app to the
// core.
type Donated struct {
	Listeners int `json:"listeners"`
	Mounts    int `json:"mounts"`
}

// FirstFD is the first donated descriptor.
const FirstFD = 3

// Descriptor numbers, given how many listeners there are.
func (d Donated) Control() int    { return FirstFD + d.Listeners }
func (d Donated) App() int        { return FirstFD + d.Listeners + 1 }
func (d Donated) Plan() int       { return FirstFD + d.Listeners + 2 }
func (d Donated) Status() int     { return FirstFD + d.Listeners + 3 }
func (d Donated) Mount(i int) int { return FirstFD + d.Listeners + 4 + i }

// Attach puts a detached mount (open_tree, mount_setattr: KERNEL 14) at Target
// inside the sandbox with move_mount.
type Attach struct {
	Mount  int           `json:"mount"` // index for Donated.Mount
	Target string        `json:"target"`
	At     vassal.Origin `json:"at"`
}

// Filter is one instruction of classic BPF (struct sock_filter).
type Filter struct {
	Code uint16 `json:"c"`
	Jt   uint8  `json:"t,omitempty"`
	Jf   uint8  `json:"f,omitempty"`
	K    uint32 `json:"k,omitempty"`
}

// Step names a step of the stage in a Failure.
type Step string

// The steps, in their order.
const (
	StepPlan     Step = "plan"
	StepDomain   Step = "domain of the stage"
	StepAttach   Step = "mount"
	StepRootHook Step = "hook as-root"
	StepLimits   Step = "limits"
	StepIdentity Step = "identity"
	StepCaps     Step = "capabilities"
	StepNoNew    Step = "no_new_privs"
	StepUserHook Step = "hook as-user"
	StepSeccomp  Step = "seccomp"
	StepSetcon   Step = "setcon"
	StepExec     Step = "exec"
)

// MaxFailure bounds a Failure on the wire, in bytes.
const MaxFailure = 4 << 10

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
	if f.At.Line > 0 {
		fmt.Fprintf(&b, "%s:%d: ", f.At.File, f.At.Line)
	}
	fmt.Fprintf(&b, "%s: ", f.Step)
	if f.What != "" {
		fmt.Fprintf(&b, "%s: ", f.What)
	}
	b.WriteString(f.Msg)
	return b.String()
}
