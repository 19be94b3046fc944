package inifile

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"liege/vassal"
)

// usualOOMScore is the core's oom_score_adj: a tenant's host survives its
// vassals.
const usualOOMScore = 100

// guard handles what the processes keep and may do.
func (d *decoder) guard(v value) bool {
	g := &d.cfg.Guard
	switch v.opt.Name {
	case "cap":
		d.caps(v)
	case "seccomp":
		d.seccomp(v)
	case "landlock":
		g.NoLandlock = !v.on
	case "oom-score-adj":
		n := int(max(-2000, min(v.n, 2000)))
		switch {
		case n < -1000 || n > 1000:
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%d is not from -1000 to 1000", v.n), "oom-score-adj = 100")
		case n < usualOOMScore && d.tenant(v.Setting):
			d.err(vassal.CodeNotForTenants, v.Setting, fmt.Sprintf("below %d others are killed before it", usualOOMScore), "")
		default:
			g.OOMScore = &n
		}
	default:
		return false
	}
	return true
}

// caps reads names with commas, as uWSGI does; of all lines the last counts.
func (d *decoder) caps(v value) {
	var all []int
	for name := range strings.FieldsFuncSeq(v.Value, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' }) {
		n, ok := vassal.Capability(name)
		if !ok {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is no capability that a vassal may have", clip(name)), "cap = net_bind_service; what needs more is done by hook-as-root")
			return
		}
		if !slices.Contains(all, n) {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	d.cfg.Guard.Caps = all
}

// seccomp reads the name of a profile or its path.
func (d *decoder) seccomp(v value) {
	word := strings.TrimSpace(v.Value)
	switch {
	case word == "default" || word == "strict":
	case d.tenant(v.Setting):
		d.err(vassal.CodeNotForTenants, v.Setting, fmt.Sprintf("%s is for files that belong to root", clip(word)), "seccomp = default, or strict")
		return
	case word != "off" && !path.IsAbs(word):
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is neither a profile nor an absolute path", clip(word)), "seccomp = default, strict, off or /etc/liege/profile.json")
		return
	}
	d.cfg.Guard.Seccomp, d.cfg.Guard.SeccompAt = word, v.Origin
}
