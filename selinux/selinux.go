// Package selinux asks the kernel about the loaded policy: whether there is
// one, what this process runs as, whether a context is known, and whether one
// domain may turn into another. It changes nothing; the stage's constructor
// does. It is the only package that imports go-selinux.
//
//	p, err := selinux.Load() // errors.Is(err, selinux.ErrOff): no SELinux here
//	canonical, err := p.Enter(p.Own(), "system_u:system_r:webapp_shop_t:s0:c1,c0")
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
// A file that asks for a context does not start there.
var ErrOff = errors.New("SELinux is off on this kernel")

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
	own string
	ask kernel
}

// kernel is selinuxfs; tests have a policy of a few lines.
type kernel interface {
	canonical(context string) (string, error)
	// allowed reports whether the policy has the permission, and whether the
	// domain from is a permissive one.
	allowed(from, to, class, permission string) (ok, permissive bool, err error)
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
	return &Policy{own: strings.TrimRight(own, "\x00\n"), ask: selinuxfs("/sys/fs/selinux")}, nil
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

// Enter returns the canonical form of context if a process that runs as from
// may change into it (setcon). Else the error says what is in the way: another
// user or role (KERNEL fact 12), or a missing rule.
func (p *Policy) Enter(from, context string) (string, error) {
	to, err := p.Known(context)
	if err != nil {
		return "", err
	}
	for _, need := range []struct{ to, permission string }{{from, "setcurrent"}, {to, "dyntransition"}} {
		ok, permissive, err := p.ask.allowed(from, need.to, "process", need.permission)
		if err != nil {
			return "", fmt.Errorf("the policy cannot be asked about %s: %w", need.permission, err)
		}
		if !ok {
			return "", refused(from, to, need.permission, permissive)
		}
	}
	return to, nil
}

// refused explains why from cannot become to.
func refused(from, to, permission string, permissive bool) error {
	// The constraints of the reference policy demand the same user and role;
	// no rule can help there.
	if have, want := identity(from), identity(to); have != want {
		return fmt.Errorf("the Emperor runs as %s and cannot change to %s; start it with systemctl, or with runcon -u %s -r %s",
			have, want, field(to, user), field(to, role))
	}
	target := field(to, typ)
	if permission == "setcurrent" {
		target = "self"
	}
	also := ""
	if permissive {
		also = " (it would work only because that domain is permissive)"
	}
	return fmt.Errorf("the policy lacks: allow %s %s:process %s%s", field(from, typ), target, permission, also)
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
