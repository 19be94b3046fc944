package resolve

import (
	"net/netip"
	"slices"

	"liege/sandbox/seccomp"
	"liege/sandbox/stage"
	"liege/vassal"
)

// usualOOMScore is the core's oom_score_adj without a line about it.
const usualOOMScore = 100

// guard plans what the processes keep and may do. A filter other than the
// default one, which the Emperor has, is compiled here, so that check says what
// is wrong with a profile.
func (r *resolver) guard() {
	g, p := r.cfg.Guard, &r.res.Plan
	p.OOMScore = usualOOMScore
	if g.OOMScore != nil {
		p.OOMScore = *g.OOMScore
	}
	p.Caps = g.Caps
	if !g.NoLandlock {
		p.Landlock = &stage.Landlock{NoTCP: g.Seccomp == seccomp.StrictProfile && r.closed()}
		for _, c := range r.res.Connect {
			if at, err := netip.ParseAddrPort(c.Address); err == nil {
				p.Landlock.Ports = append(p.Landlock.Ports, at.Port())
			}
		}
	}
	dumps := slices.ContainsFunc(r.cfg.Rlimits, func(l vassal.Rlimit) bool { return l.Resource == "core" })
	profile := seccomp.Profile{Strict: g.Seccomp == seccomp.StrictProfile, Caps: g.Caps, Dumps: dumps}
	switch g.Seccomp {
	case seccomp.Off:
		p.NoSeccomp = true
		return
	case "", seccomp.DefaultProfile:
		if len(g.Caps) == 0 && !dumps {
			return // the Emperor's
		}
	case seccomp.StrictProfile:
	default:
		var ok bool
		if profile.Text, ok = r.rootsFile(g.Seccomp, "seccomp", g.SeccompAt); !ok {
			return
		}
	}
	var err error
	if p.Seccomp, err = seccomp.Compile(profile); err != nil {
		r.fail(vassal.CodeBadValue, g.SeccompAt, "seccomp", err.Error(), "")
	}
}

// closed tells whether TCP can be forbidden. Only seccomp = strict asks for it:
// an app hears "permission denied" then, and no longer that its network is
// closed, which is what people look for.
//
// It tells whether the vassal has no use for TCP but for what is named: no
// program of its own serves it inside.
func (r *resolver) closed() bool {
	a := r.cfg.App
	return r.res.Net == "none" && a.Exec == nil && a.PHP == nil && len(a.Daemons) == 0
}
