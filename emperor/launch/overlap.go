package launch

import (
	"fmt"

	"liege/emperor"
	"liege/vassal"
)

var _ emperor.Crowder = (*launcher)(nil)

// Crowded implements emperor.Crowder.
func (l *launcher) Crowded(prep emperor.Prepared) *vassal.Problem {
	p, ok := prep.(*prepared)
	if !ok || !l.host.Sandboxes.Has(l.name) {
		return nil
	}
	v, err := l.host.Sandboxes.Vassal(l.name)
	if err != nil {
		return nil // the start says so
	}
	used, need, crowded := v.Crowded(p.Config.Limits, p.Ceilings)
	if !crowded {
		return nil
	}
	at := p.Config.Limits.MemoryMaxAt
	return &vassal.Problem{Severity: vassal.Warning, Code: vassal.CodeNoRoom, File: at.File, Line: at.Line, Key: "memory-max", Step: "start",
		Message: fmt.Sprintf("what served was ended before this generation was started: it held %dM, and with %dM for another that is over the %dM of [ceilings] memory-max", used>>20, need>>20, p.Ceilings.MemoryMax>>20),
		Hint:    "a ceiling of twice what the vassal uses lets a reload begin beside it"}
}

// besides is what to do about memory that was short because another generation
// served when this one was started.
func (in *instance) besides() string {
	select {
	case <-in.serving:
		return ""
	default:
	}
	if in.box == nil || !in.box.Second() {
		return ""
	}
	return fmt.Sprintf("; what served lived beside it: liege restart %s ends that first", in.l.name)
}

// level ends that the kernel kills the generation before what served until now.
func (in *instance) level() {
	if err := in.box.Level(); err != nil {
		in.l.host.Log.Warn("the kernel kills it first when memory is short", "vassal", in.l.name, "gen", in.gen, "err", err)
	}
}
