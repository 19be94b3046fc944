// Package selinux asks the kernel about the loaded policy: whether there is
// one, what this process runs as, whether a context is known, whether one
// domain may turn into another, and what context a new object gets. It labels
// what the Emperor makes for a vassal (Sockets, Relabel, MountOption); no
// process changes its domain here, the stage's constructor does. It is the only
// package that imports go-selinux.
//
//	p, err := selinux.Load() // errors.Is(err, selinux.ErrOff): no SELinux here
//	d, err := p.Domains()
//	canonical, err := p.Enter(d.Stage, "system_u:system_r:webapp_shop_t:s0:c1,c0")
//
// Every answer is the kernel's own (selinuxfs "context" and "access"), given
// by the policy that is loaded at that moment, in permissive mode too: a file
// that starts only because the system is permissive is told so beforehand.
package selinux

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	goselinux "github.com/opencontainers/selinux/go-selinux"
)

// ErrOff is what Load returns on a kernel without SELinux or without a policy.
// A file that asks for a context does not start there, unless the operator says
// so ([emperor] selinux = warn).
var ErrOff = errors.New("SELinux is off on this kernel")

// ErrPermissive is the same for a kernel that enforces nothing.
var ErrPermissive = errors.New("SELinux is permissive: what the policy forbids is logged, not prevented")

// Mode is what the kernel does with what the policy denies.
type Mode string

// The modes.
const (
	Off        Mode = "off"
	Permissive Mode = "permissive" // denials are logged, not enforced
	Enforcing  Mode = "enforcing"
)

// CurrentMode asks the kernel. It is not kept: an administrator changes it at
// any time.
func CurrentMode() Mode {
	switch {
	case !goselinux.GetEnabled():
		return Off
	case goselinux.EnforceMode() == goselinux.Enforcing:
		return Enforcing
	}
	return Permissive
}

// Policy is the loaded policy, seen by this process.
type Policy struct {
	own  string
	ask  kernel
	mode func() Mode
}

// kernel is selinuxfs; tests have a policy of a few lines.
type kernel interface {
	canonical(context string) (string, error)
	// allowed reports whether the policy has the permission, and whether the
	// domain from is a permissive one.
	allowed(from, to, class, permission string) (ok, permissive bool, err error)
	// created is the context of a new object of the class in to.
	created(from, to, class string) (string, error)
}

// Load returns the policy. The error wraps ErrOff if there is none.
func Load() (*Policy, error) {
	if CurrentMode() == Off {
		return nil, ErrOff
	}
	own, err := goselinux.CurrentLabel()
	if err != nil {
		return nil, fmt.Errorf("the own SELinux context: %w", err)
	}
	return &Policy{own: strings.TrimRight(own, "\x00\n"), ask: selinuxfs("/sys/fs/selinux"), mode: CurrentMode}, nil
}

// Own is this process's context when the Policy was loaded.
func (p *Policy) Own() string { return p.own }

// Known returns the canonical form of context, as the kernel will show it:
// categories are sorted and three in a row joined, so "c1,c0" is "c0,c1" and
// "c2,c1,c0" is "c0.c2". The error says so if the policy does not know it.
func (p *Policy) Known(context string) (string, error) {
	if n := strings.Count(context, ":"); n < 2 || strings.ContainsAny(context, " \t\n\x00") {
		return "", errors.New("no SELinux context; it has the form user:role:type:level")
	}
	c, err := p.ask.canonical(context)
	if errors.Is(err, syscall.EINVAL) {
		return "", fmt.Errorf("the loaded policy does not know this context; is the module with %s installed (semodule -l)?", field(context, typ))
	}
	if err != nil {
		return "", fmt.Errorf("the kernel cannot be asked about this context: %w", err)
	}
	return strings.TrimRight(c, "\x00\n"), nil
}

// A need is one permission without which a domain cannot be entered.
type need struct{ from, to, class, permission string }

// Enter returns the canonical form of context if a process that runs as from
// may change into it (setcon). Else the error says what is in the way: another
// user or role (KERNEL 12), or a missing rule.
func (p *Policy) Enter(from, context string) (string, error) {
	to, err := p.Known(context)
	if err != nil {
		return "", err
	}
	return p.need(from, to, need{from, from, "process", "setcurrent"}, need{from, to, "process", "dyntransition"})
}

// EnterByExec is Enter for a process that gets into context by executing a
// program whose file has the context entry. It has no_new_privs by then, and
// every file system of a sandbox is nosuid, so the policy must say that the
// two do not matter (KERNEL 9, 13).
func (p *Policy) EnterByExec(from, entry, context string) (string, error) {
	to, err := p.Known(context)
	if err != nil {
		return "", err
	}
	return p.need(from, to,
		need{from, from, "process", "setexec"}, need{from, to, "process", "transition"}, need{to, entry, "file", "entrypoint"},
		need{from, to, "process2", "nnp_transition"}, need{from, to, "process2", "nosuid_transition"})
}

// Starts reports why a process that runs as from cannot start one in the context
// to by executing a program whose file has the context entry, on a nosuid file
// system: so the Emperor starts the stage (KERNEL 9).
func (p *Policy) Starts(from, entry, to string) error {
	_, err := p.need(from, to,
		need{from, from, "process", "setexec"}, need{from, to, "process", "transition"}, need{to, entry, "file", "entrypoint"},
		need{from, to, "process2", "nosuid_transition"})
	return err
}

// Target says how the domains of vassals are entered.
type Target struct {
	From    string // the stage's context
	Core    string // the core's program: its label must be an entry point
	Default string // the context of vassals that name none
}

// Reach is Enter or, byExec, EnterByExec, of context or of t.Default if that is
// empty. Where the kernel enforces nothing the error wraps ErrPermissive and
// the context is good; but nobody asked for the default, so there is none then.
func (p *Policy) Reach(t Target, context string, byExec bool) (string, error) {
	asked := context != ""
	if !asked {
		context = t.Default
	}
	if !byExec {
		c, err := p.Enter(t.From, context)
		return c, p.enforced(c, asked, err)
	}
	entry, err := PathContext(t.Core)
	if err != nil {
		return "", err
	}
	c, err := p.EnterByExec(t.From, entry, context)
	return c, p.enforced(c, asked, err)
}

// enforced is err, or else ErrPermissive where somebody asked for a context and
// nothing is enforced: by the kernel's mode, or because the domain is one that
// the policy calls permissive (semanage permissive -a).
func (p *Policy) enforced(context string, asked bool, err error) error {
	if err != nil || !asked {
		return err
	}
	if p.mode() != Enforcing {
		return ErrPermissive
	}
	if _, permissive, err := p.ask.allowed(context, context, "process", "fork"); err != nil {
		return fmt.Errorf("the policy cannot be asked whether %s is permissive: %w", field(context, typ), err)
	} else if permissive {
		return fmt.Errorf("%s is a permissive domain: %w", field(context, typ), ErrPermissive)
	}
	return nil
}

// need asks for all of them, and returns to.
func (p *Policy) need(from, to string, all ...need) (string, error) {
	for _, n := range all {
		ok, permissive, err := p.ask.allowed(n.from, n.to, n.class, n.permission)
		if err != nil {
			return "", fmt.Errorf("the policy cannot be asked about %s: %w", n.permission, err)
		}
		if !ok {
			return "", refused(from, to, n, permissive)
		}
	}
	return to, nil
}

// refused explains why from cannot become to.
func refused(from, to string, n need, permissive bool) error {
	// The constraints of the reference policy demand the same user and role;
	// no rule can help there.
	if have, want := identity(from), identity(to); have != want {
		return fmt.Errorf("the Emperor runs as %s and cannot change to %s; start it with systemctl, or with runcon -u %s -r %s",
			have, want, field(to, user), field(to, role))
	}
	target := field(n.to, typ)
	if n.from == n.to {
		target = "self"
	}
	also := ""
	if permissive {
		also = " (it would work only because that domain is permissive)"
	}
	return fmt.Errorf("the policy lacks: allow %s %s:%s %s%s", field(n.from, typ), target, n.class, n.permission, also)
}

// The fields of a context.
const (
	user = iota
	role
	typ
)

// field returns one field of a context, empty if it has too few.
func field(context string, i int) string {
	f := strings.SplitN(context, ":", 4)
	if i >= len(f) {
		return ""
	}
	return f[i]
}

// identity is user and role.
func identity(context string) string { return field(context, user) + ":" + field(context, role) }

// notThere reports whether selinuxfs does not know a class or permission.
func notThere(err error) bool { return errors.Is(err, fs.ErrNotExist) }
