package launch

import (
	"fmt"
	"time"

	"liege/emperor"
	"liege/emperor/record"
	"liege/vassal"
)

// write notes a change in the generation's record. What is not on disk, because
// the run directory is full for instance, is tried again until it is: an Emperor
// that comes after a crash ends what its record does not show as serving. Only
// hear calls it.
func (in *instance) write(change func(*record.Record)) {
	in.mu.Lock()
	defer in.mu.Unlock()
	change(&in.record)
	was := in.unwritten
	in.unwritten = in.l.host.Records.Write(in.record)
	if was == nil && in.unwritten != nil {
		in.l.host.Log.Error("the record of a generation is not up to date", "vassal", in.l.name, "gen", in.gen, "err", in.unwritten)
		in.renewals.Go(in.rewrite)
	}
}

// rewrite tries to write the record until that is done, or nothing is left of the
// generation.
func (in *instance) rewrite() {
	t := time.NewTicker(emperor.LookAgain)
	defer t.Stop()
	again := func() error {
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.unwritten != nil { // else hear wrote it
			in.unwritten = in.l.host.Records.Write(in.record)
		}
		return in.unwritten
	}
	for {
		select {
		case <-in.box.Done():
			return
		case <-t.C:
		}
		if again() == nil {
			return
		}
	}
}

// unrecorded says that the record is not up to date, with in.mu held.
func (in *instance) unrecorded() vassal.Problems {
	if in.unwritten == nil {
		return nil
	}
	return vassal.Problems{{Severity: vassal.Warning, Code: vassal.CodeNotSaved,
		Message: fmt.Sprintf("that %s serves is not on disk, and after a crash of the Emperor the next one would end it: %v", title(in.gen), in.unwritten),
		Hint:    "make room in the run directory " + in.l.host.Records.Path() + ": it is tried again every few seconds"}}
}

// unlogged says that what the vassal prints is lost at this moment.
func (in *instance) unlogged() vassal.Problems {
	err := in.log.Trouble()
	if err == nil {
		return nil
	}
	return vassal.Problems{{Severity: vassal.Warning, Code: vassal.CodeNotLogged, Step: "log",
		Message: fmt.Sprintf("what it prints is lost: %v", err), Hint: "make room there: df -h, df -i"}}
}
