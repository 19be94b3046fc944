package inifile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"liege/vassal"
)

// The range of cpu.weight, and what a cgroup has that nobody gave another: the
// most that a tenant may ask for where no ceiling says otherwise, since the
// shares of all others shrink by it.
const (
	mostCPUWeight  = 10000
	usualCPUWeight = 100
)

func (d *decoder) cpuWeight(v value) {
	if v.n < 1 || v.n > mostCPUWeight {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%d is not a weight from 1 to %d", v.n, mostCPUWeight), fmt.Sprintf("cpu-weight = %d is what every vassal has", usualCPUWeight))
		return
	}
	d.cfg.Limits.CPUWeight, d.cfg.Limits.CPUWeightAt = v.n, v.Origin
}

const ioExample = "io-max = /srv rbps=50M wbps=20M riops=1000 wiops=500"

// maxIO bounds the io-max lines of a vassal.
const maxIO = 16

// ioMax reads "[PATH] KEY=N …", the keys being those of io.max.
func (d *decoder) ioMax(v value) {
	m := vassal.IOMax{At: v.Origin}
	words := strings.Fields(v.Value)
	if len(words) > 0 && !strings.Contains(words[0], "=") {
		m.Path, words = words[0], words[1:]
	}
	if len(words) == 0 {
		d.err(vassal.CodeBadValue, v.Setting, "bounds nothing", ioExample)
		return
	}
	for _, w := range words {
		key, text, _ := strings.Cut(w, "=")
		into := map[string]*int64{"rbps": &m.ReadBytes, "wbps": &m.WriteBytes, "riops": &m.ReadOps, "wiops": &m.WriteOps}[key]
		n, ok := ioNumber(text)
		if into == nil || !ok {
			d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q is none of rbps=, wbps=, riops=, wiops= with a number from 1", clip(w)), ioExample)
			return
		}
		*into = n
	}
	all := slices.DeleteFunc(d.cfg.Limits.IOMax, func(o vassal.IOMax) bool { return o.Path == m.Path })
	if d.cfg.Limits.IOMax = append(all, m); len(d.cfg.Limits.IOMax) > maxIO {
		d.err(vassal.CodeTooBig, v.Setting, fmt.Sprintf("more than %d devices", maxIO), "")
	}
}

// ioNumber reads 500 and 20M.
func ioNumber(text string) (int64, bool) {
	end := leading(text, true)
	scale, used := unit(Size, text[end:])
	x, err := strconv.ParseFloat(text[:end], 64)
	x *= scale
	return int64(x), err == nil && end+used == len(text) && x >= 1 && x < 1<<50
}

// coreRlimit keeps a limit that the core has too, because only root may raise
// it: the stage sets it. A later line wins.
func (d *decoder) coreRlimit(v value) {
	resource := strings.TrimPrefix(v.opt.Name, "limit-")
	kept := slices.DeleteFunc(d.cfg.Rlimits, func(r vassal.Rlimit) bool { return r.Resource == resource })
	if resource == "nice" && v.n > 40 || resource == "rtprio" && v.n > 99 {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("the kernel knows no %s of %d", resource, v.n), "limit-nice is 20 less the nice value, 1 to 40; limit-rtprio is at most 99")
	}
	d.cfg.Rlimits = append(kept, vassal.Rlimit{Resource: resource, Value: uint64(v.n), At: v.Origin})
}

// shareCeilings applies the ceilings that a vassal does not get as its limit
// when it names none.
func (d *decoder) shareCeilings() {
	l := &d.cfg.Limits
	if l.MemoryHigh > l.MemoryMax && l.MemoryMax > 0 {
		d.warn(vassal.CodeBadValue, Setting{Key: "memory-high", Origin: l.MemoryHighAt}, fmt.Sprintf("has no effect: memory-max is %s", sizeText(l.MemoryMax)), "")
	}
	most := d.pol.CPUWeight
	if most.Value == 0 && d.cfg.ByUser(l.CPUWeightAt) {
		most.Value = usualCPUWeight
	}
	if most.Value > 0 && float64(l.CPUWeight) > most.Value {
		where := "what a tenant may ask for"
		if most.At.Line > 0 {
			where = fmt.Sprintf("%s:%d", most.At.File, most.At.Line)
		}
		d.err(vassal.CodeOverCeiling, Setting{Key: "cpu-weight", Origin: l.CPUWeightAt}, fmt.Sprintf("%d is over the ceiling of %.0f (%s)", l.CPUWeight, most.Value, where), "")
	}
	swap := d.pol.SwapMax
	switch {
	case swap.At.Line == 0:
	case l.SwapMax == nil && l.MemoryMax == 0:
		n := int64(swap.Value)
		l.SwapMax, l.SwapMaxAt = &n, vassal.Origin{File: swap.At.File, Line: swap.At.Line, Layer: vassal.Enforced}
	case l.SwapMax != nil && (*l.SwapMax == vassal.NoSwapLimit || float64(*l.SwapMax) > swap.Value):
		d.err(vassal.CodeOverCeiling, Setting{Key: "swap-max", Origin: l.SwapMaxAt}, fmt.Sprintf("is over the ceiling of %s (%s:%d)", sizeText(int64(swap.Value)), swap.At.File, swap.At.Line), "")
	}
}
