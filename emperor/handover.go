package emperor

import (
	"context"

	"liege/emperor/control"
)

// Save has every vassal's counters written for the Emperor that follows, as far
// as that is done before ctx is. What was asked of them is on disk already.
func (e *Emperor) Save(ctx context.Context) {
	p, _ := e.public.get()
	for _, a := range p.actors {
		if rep, _ := a.board.get(); rep.vassal.State == control.Sleeping || rep.ended {
			continue // it saved what it had, and may have no goroutine
		}
		done := make(chan struct{})
		select {
		case a.saves <- done:
			<-done
		case <-ctx.Done():
			return
		}
	}
}
