package launch

import (
	"context"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/emperor/certs"
)

var _ emperor.Stepper = (*launcher)(nil)

// steps is what a launcher does. The zero steps does nothing.
type steps struct {
	now atomic.Pointer[emperor.Step]
	who atomic.Pointer[asuser.Who] // for whom
}

// Step implements emperor.Stepper.
func (l *launcher) Step() emperor.Step {
	if s := l.steps.now.Load(); s != nil {
		return *s
	}
	return emperor.Step{}
}

// Hangs implements emperor.Stepper: what hangs counts with the other threads and
// children that hang for the user.
func (l *launcher) Hangs(done <-chan struct{}) {
	if w := l.steps.who.Load(); w != nil {
		asuser.Hangs(*w, done)
	}
}

// at notes a step that may take emperor.StepTime.
func (l *launcher) at(name, on string) { l.lasting(name, on, emperor.StepTime) }

// lasting notes a step that may take d.
func (l *launcher) lasting(name, on string, d time.Duration) {
	l.steps.now.Store(&emperor.Step{Name: name, On: on, Until: time.Now().Add(d)})
}

// unbounded notes a step that ends by itself or with its context.
func (l *launcher) unbounded(name, on string) {
	l.steps.now.Store(&emperor.Step{Name: name, On: on})
}

// step is one part of a start.
type step struct {
	name string
	do   func(context.Context) error
}

// busy says that the launcher works for p until the returned function is called.
func (l *launcher) busy(p *prepared) (over func()) {
	as := who(p.Result)
	l.steps.who.Store(&as)
	return func() { l.steps.now.Store(nil) }
}

// through does steps, and none once ctx is done: nothing is made after one that hung
// and was given up.
func (s *start) through(ctx context.Context, steps ...step) error {
	for _, step := range steps {
		s.l.at(step.name, "")
		err := step.do(ctx)
		if err == nil && ctx.Err() != nil {
			err = fmt.Errorf("%s: %w", s.l.Step(), context.Cause(ctx))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// inBox notes which path of the host the sandbox is made with; empty: none.
func (s *start) inBox(source string) {
	if source != "" {
		s.l.at("mount", source)
		return
	}
	s.l.lasting("sandbox", "", s.boxTime())
}

// certsAt reads certificates, and notes which.
type certsAt struct {
	certs.From
	l *launcher
}

func (c certsAt) Read(path string) ([]byte, fs.FileMode, error) {
	c.l.at("certificates", path)
	return c.From.Read(path)
}

func (c certsAt) List(dir string) ([]string, error) {
	c.l.at("certificates", dir)
	return c.From.List(dir)
}

// boxTime is how long a sandbox may take: its hooks may take their time.
func (s *start) boxTime() time.Duration {
	p := &s.p.Result.Plan
	return emperor.StepTime + time.Duration(p.HookTime)*time.Second*time.Duration(len(s.p.Result.HostHooks))
}
