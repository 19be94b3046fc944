package emperor

import (
	"context"
	"time"

	"liege/emperor/control"
)

// saveOne is how long one vassal may take to write its counters down.
const saveOne = 50 * time.Millisecond

// Save has every vassal's counters written for the Emperor that follows, as far
// as that is done before ctx is. What was asked of them is on disk already.
func (e *Emperor) Save(ctx context.Context) {
	p := e.public.value()
	for _, a := range p.actors {
		if rep := a.board.value(); rep.vassal.State == control.Sleeping || rep.ended {
			continue // it saved what it had, and may have no goroutine
		}
		done := make(chan struct{})
		brief, cancel := context.WithTimeout(ctx, saveOne)
		select {
		case a.saves <- done:
			select {
			case <-done:
			case <-brief.Done():
			}
		case <-brief.Done(): // it is at something that nothing interrupts; the others are not
		}
		cancel()
	}
}
