package resolve

import (
	"liege/sandbox/seccomp"
	"liege/vassal"
)

// asRoot is what to write instead.
const asRoot = "sudo liege serve …"

// caller says what "liege serve" cannot do for somebody who is not root: what
// a file asks for its safety, or to be done as root, is never skipped silently
// (CONTRACT 7).
func (r *resolver) caller() {
	if r.host.Caller == nil || r.host.Caller.UID == 0 {
		return
	}
	c := r.cfg
	for _, h := range c.Hooks {
		if h.Phase.Place() == vassal.AtCore {
			continue // the caller's own
		}
		r.fail(vassal.CodeNeedsRoot, h.At, h.Option(), "hooks are run only when liege serve is started as root", asRoot)
	}
	if c.Ident.Context != "" {
		r.fail(vassal.CodeNeedsRoot, c.Ident.ContextAt, "", "the SELinux context is entered only when liege serve is started as root", asRoot)
	}
	if c.Jail.NetAt.Line > 0 && r.res.Net != "host" {
		r.fail(vassal.CodeNeedsRoot, c.Jail.NetAt, "net", "a network of its own needs root", asRoot)
	}
	if c.Jail.Root.Dir != "" {
		r.fail(vassal.CodeNeedsRoot, c.Jail.Root.At, c.Jail.Root.Key, "another system is shown only when liege serve is started as root", asRoot)
	}
	for _, t := range c.Jail.Tmpfs {
		r.warn(vassal.CodeNeedsRoot, t.At, "tmpfs", "not root: the app sees what lies at "+t.Target, asRoot)
		break
	}
	for _, at := range []vassal.Origin{c.Jail.TimeNS, c.Jail.UserNS} {
		if at.Line > 0 {
			r.fail(vassal.CodeNeedsRoot, at, "namespaces", "namespaces are made only when liege serve is started as root", asRoot)
			break
		}
	}
	for _, b := range c.Jail.Binds {
		r.warn(vassal.CodeNeedsRoot, b.At, b.Key, "not root: the app sees the whole host", asRoot)
		break
	}
	if g := c.Guard; g.Seccomp != "" && g.Seccomp != seccomp.Off {
		r.warn(vassal.CodeNeedsRoot, g.SeccompAt, "seccomp", "not root: there is no filter", asRoot)
	}
	if len(c.Guard.Caps) > 0 {
		r.warn(vassal.CodeNeedsRoot, vassal.Origin{}, "cap", "not root: there are no capabilities", asRoot)
	}
	if c.Jail.HidePID {
		r.warn(vassal.CodeNeedsRoot, vassal.Origin{}, "hide-pid", "not root: the app sees the host's processes", asRoot)
	}
	if c.Jail.Resolv != "" {
		r.warn(vassal.CodeNeedsRoot, c.Jail.ResolvAt, "resolv-conf", "not root: the app sees the host's", asRoot)
	}
	r.unlimited()
}

// unlimited says which limits of a control group are not in force.
func (r *resolver) unlimited() {
	c := r.cfg
	for _, x := range []struct {
		set bool
		at  vassal.Origin
		key string
	}{
		{c.Limits.MemoryMax > 0, c.Limits.MemoryMaxAt, "memory-max"},
		{c.Limits.SwapMax != nil, c.Limits.SwapMaxAt, "swap-max"},
		{c.Limits.OOMGroup, c.Limits.OOMGroupAt, "oom-group"},
		{c.Limits.CPUMax > 0, c.Limits.CPUMaxAt, "cpu-max"},
		{c.Limits.PidsMax > 0, c.Limits.PidsMaxAt, "pids-max"},
		{c.Limits.MemoryHigh > 0, c.Limits.MemoryHighAt, "memory-high"},
		{c.Limits.CPUWeight > 0, c.Limits.CPUWeightAt, "cpu-weight"},
		{len(c.Limits.IOMax) > 0, ioAt(&c.Limits), "io-max"},
		{c.Limits.DiskQuota > 0, c.Limits.DiskQuotaAt, "disk-quota"},
		{c.Limits.InodeQuota > 0, c.Limits.InodeQuotaAt, "inode-quota"},
	} {
		if x.set {
			r.warn(vassal.CodeNeedsRoot, x.at, x.key, "not root: the limit is not in force", asRoot)
		}
	}
}
