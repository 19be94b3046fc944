package hook

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"liege/vassal"
)

// Worker is one process of the application, for the phases that come for each.
type Worker struct {
	ID  int // its place, from 1
	PID int
}

// Workers runs the phases that come for each worker: all of post-fork first,
// then those of accepting. Which workers it has seen it remembers in seen, by
// place: those with the same process are left out, and what comes once for a
// place does not come again.
func (r *Runner) Workers(ctx context.Context, workers []Worker, seen map[int]int) error {
	var fresh []Worker
	first := map[int]bool{}
	for _, w := range workers {
		pid, known := seen[w.ID]
		if pid == w.PID && known {
			continue
		}
		fresh, first[w.ID] = append(fresh, w), !known
		seen[w.ID] = w.PID
	}
	for _, w := range fresh {
		if err := r.Run(ctx, vassal.PostFork, w.env()...); err != nil {
			return err
		}
	}
	for _, w := range fresh {
		for _, p := range accepting(w.ID, first[w.ID]) {
			if err := r.Run(ctx, p, w.env()...); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w Worker) env() []string {
	return []string{fmt.Sprintf("LIEGE_WORKER=%d", w.ID), fmt.Sprintf("LIEGE_WORKER_PID=%d", w.PID)}
}

// accepting are the phases of a worker that is ready, in their order.
func accepting(id int, once bool) []vassal.Phase {
	out := []vassal.Phase{vassal.Accepting}
	if once {
		out = append(out, vassal.AcceptingOnce)
	}
	if id == 1 {
		out = append(out, vassal.Accepting1)
		if once {
			out = append(out, vassal.Accepting1Once)
		}
	}
	return out
}

// lookEvery is how often the files of hook-touch are looked at: once in a
// second, as uWSGI does.
const lookEvery = time.Second

// Watch runs the hooks of hook-touch when their files change, until ctx ends.
func (r *Runner) Watch(ctx context.Context) {
	if !r.Has(vassal.Touched) {
		return
	}
	last := r.times()
	t := time.NewTicker(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		now := r.times()
		for file, at := range now {
			if at.IsZero() || at.Equal(last[file]) { // one that is gone was not touched
				now[file] = last[file]
				continue
			}
			_ = r.run(ctx, func(h *vassal.Hook) bool { return h.Phase == vassal.Touched && h.File == file }, nil) // failures are logged
		}
		last = now
	}
}

func (r *Runner) times() map[string]time.Time {
	out := map[string]time.Time{}
	for _, h := range r.hooks {
		if h.Phase != vassal.Touched {
			continue
		}
		out[h.File] = time.Time{}
		path := h.File
		if !filepath.IsAbs(path) {
			path = filepath.Join(r.base, path)
		}
		if st, err := os.Stat(path); err == nil {
			out[h.File] = st.ModTime()
		}
	}
	return out
}
