package emperor

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"liege/emperor/control"
	"liege/vassal"
)

// freshUsage is how old usage may be that Vassals shows, and sampleWait how
// long it waits for newer.
const (
	freshUsage = time.Second
	sampleWait = 100 * time.Millisecond
)

// Concurrency implements control.Backend.
func (e *Emperor) Concurrency() int { return e.concurrency }

// Refresh implements control.Backend: it has the Monitor look at every file and
// returns when the actors have been told. SIGHUP calls it too.
func (e *Emperor) Refresh(ctx context.Context) error {
	if err := e.monitor.Rescan(ctx); err != nil {
		return err
	}
	return e.Alive(ctx)
}

// Alive returns nil when the goroutine that owns the set has answered: what
// the watchdog of systemd wants to know.
func (e *Emperor) Alive(ctx context.Context) error {
	done := make(chan struct{})
	select {
	case e.barrier <- done:
		<-done
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Vassals implements control.Backend.
func (e *Emperor) Vassals(ctx context.Context) []control.Vassal {
	p := e.public.value()
	return e.view(ctx, p.others, slices.Collect(maps.Values(p.actors)))
}

// VassalsOf implements control.Backend.
func (e *Emperor) VassalsOf(ctx context.Context, user int) []control.Vassal {
	p := e.public.value()
	var actors []*actor
	for _, a := range p.actors {
		if rep := a.board.value(); slices.Contains(rep.vassal.Users, user) {
			actors = append(actors, a)
		}
	}
	others := slices.DeleteFunc(slices.Clone(p.others), func(v control.Vassal) bool { return !slices.Contains(v.Users, user) })
	// It may have become another's meanwhile.
	return slices.DeleteFunc(e.view(ctx, others, actors), func(v control.Vassal) bool { return !slices.Contains(v.Users, user) })
}

// Users implements control.Backend.
func (e *Emperor) Users() []int {
	p := e.public.value()
	var users []int
	for _, v := range p.others {
		users = append(users, v.Users...)
	}
	for _, a := range p.actors {
		rep := a.board.value()
		users = append(users, rep.vassal.Users...)
	}
	return users
}

// view is others, and actors as they are now, in the order of their names.
func (e *Emperor) view(ctx context.Context, others []control.Vassal, actors []*actor) []control.Vassal {
	var waits []<-chan struct{}
	for _, a := range actors {
		rep, next := a.board.get()
		if rep.vassal.State == control.Running && time.Since(rep.sampled) > freshUsage {
			ring(a.poke)
			waits = append(waits, next)
		}
	}
	if len(waits) > 0 {
		late := time.NewTimer(sampleWait)
		defer late.Stop()
		for _, w := range waits {
			select {
			case <-w:
				continue
			case <-late.C:
			case <-ctx.Done():
			}
			break
		}
	}
	return listed(others, actors)
}

func (e *Emperor) list() []control.Vassal {
	p := e.public.value()
	return listed(p.others, slices.Collect(maps.Values(p.actors)))
}

func listed(others []control.Vassal, actors []*actor) []control.Vassal {
	out := slices.Clone(others)
	for _, a := range actors {
		rep := a.board.value()
		out = append(out, rep.vassal)
	}
	slices.SortStableFunc(out, func(a, b control.Vassal) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.File, b.File))
	})
	return out
}

// find returns the actor called name, or the Outcome if there is none.
func (e *Emperor) find(name string) (*actor, control.Outcome) {
	p := e.public.value()
	if a := p.actors[vassal.Name(name)]; a != nil {
		return a, control.Outcome{}
	}
	for _, v := range p.others {
		if v.Name == name {
			return nil, failure(v, name+": cannot be run")
		}
	}
	return nil, control.Outcome{Code: 66, Text: name + ": no such vassal",
		Problem: &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNoSuchVassal, Message: "no such vassal: " + name, Hint: "liege ls"}}
}

// Act implements control.Backend.
func (e *Emperor) Act(ctx context.Context, name string, r control.Request, by string) control.Outcome {
	a, none := e.find(name)
	if a == nil {
		return none
	}
	var refusal, hint string
	turn := a.box.change(func(w *wish) { refusal, hint = apply(w, r, by) })
	if refusal != "" {
		return control.Outcome{Code: 1, Text: name + ": " + refusal,
			Problem: &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeWrongState, Message: name + ": " + refusal, Hint: hint}}
	}
	if r.NoWait {
		return control.Outcome{OK: true, Text: fmt.Sprintf("%s: %s is under way", name, r.Verb)}
	}
	for {
		rep, next := a.board.get()
		if rep.settled >= turn {
			return result(rep, r.Verb)
		}
		if rep.ended {
			return control.Outcome{Code: 1, Text: name + ": is gone",
				Problem: &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeGone, Message: name + ": its file, or the Emperor, is gone"}}
		}
		select {
		case <-next:
		case <-ctx.Done():
			return timedOut(rep.vassal, string(r.Verb))
		}
	}
}

// apply writes what r asks for into w, or says why that makes no sense.
func apply(w *wish, r control.Request, by string) (refusal, hint string) {
	// An edit that the request itself brought to light is tried once, not once
	// as an edit and once more as asked.
	edited := !r.Began.IsZero() && !w.fileAt.Before(r.Began)
	switch r.Verb {
	case control.Start:
		if w.intent == wantSuspend {
			return "is suspended", "liege resume"
		}
		w.intent, w.by, w.demand = wantRun, "", w.turn
		if w.hold != nil { // stopped while suspended
			w.intent = wantSuspend
		}
	case control.Stop:
		w.intent, w.by = wantStop, by
	case control.Suspend:
		w.intent = wantSuspend
		w.hold = &hold{Page: r.Page, Suspension: control.Suspension{Status: cmp.Or(r.Status, 503),
			Reason: r.Reason, By: by, Since: control.Time{Time: time.Now().UTC().Truncate(time.Millisecond)}}}
	case control.Resume:
		w.hold = nil
		if w.intent == wantSuspend {
			w.intent = wantRun
		}
		if w.by != "" { // it was stopped before it was suspended
			w.intent = wantStop
		}
	case control.Reload, control.Restart:
		if w.intent == wantStop {
			return "is stopped", "liege start"
		}
		if w.intent == wantSuspend {
			return "is suspended", "liege resume"
		}
		if r.Verb == control.Restart {
			w.force, w.fresh = w.turn, w.turn
		} else if !edited {
			w.force = w.turn
		}
	}
	if r.Paced { // due as an edit of the file is, not before others and not as often as one likes
		return "", ""
	}
	w.control = w.turn
	if edited && w.control != w.force {
		w.control = max(w.fileT, 1)
	}
	return "", ""
}

// result is the Outcome of a wish that is settled.
func result(rep report, verb control.Verb) control.Outcome {
	v := rep.vassal
	want := control.Running
	switch verb {
	case control.Stop:
		want = control.Stopped
	case control.Suspend:
		want = control.Suspended
	case control.Resume, control.Start:
		if v.State == control.Suspended || v.State == control.Stopped && verb == control.Resume {
			want = v.State
		}
	}
	if v.State == control.Sleeping && verb != control.Start && want == control.Running {
		want = v.State // what is good is not started for that
	}
	again := verb == control.Reload || verb == control.Restart
	if verb == control.Suspend && v.State == want {
		if p := unheld(v); p != nil {
			return control.Outcome{Code: 1, Text: fmt.Sprintf("%s: %s, but nobody answers%s", v.Name, v.State, unsavedText(v)), Problem: p}
		}
	}
	if v.State == want && (rep.ok || !again) {
		return control.Outcome{OK: true, Text: fmt.Sprintf("%s: %s, generation %d%s", v.Name, v.State, v.Generation, unsavedText(v))}
	}
	what := fmt.Sprintf("%s: %s: %s", v.Name, verb, v.State)
	if v.State == control.Running {
		what = fmt.Sprintf("%s: %s failed; the one before still serves", v.Name, verb)
	}
	return failure(v, what)
}

func failure(v control.Vassal, what string) control.Outcome {
	o := control.Outcome{Code: 1, Text: what, Problem: v.Error}
	if o.Problem == nil {
		o.Problem = &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeNotDone, Message: what}
	}
	return o
}

func timedOut(v control.Vassal, what string) control.Outcome {
	m := fmt.Sprintf("%s: %s: timed out; it is %s", v.Name, what, cmp.Or(v.State, "not there"))
	return control.Outcome{Code: 75, Text: m,
		Problem: &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeTimedOut, Message: m}}
}

// Await implements control.Backend.
func (e *Emperor) Await(ctx context.Context, name, goal string) control.Outcome {
	for {
		p, setNext := e.public.get()
		a := p.actors[vassal.Name(name)]
		var next <-chan struct{}
		last := control.Vassal{Name: name}
		if a == nil {
			if goal == "gone" {
				return control.Outcome{OK: true, Text: name + ": gone"}
			}
			if i := slices.IndexFunc(p.others, func(v control.Vassal) bool { return v.Name == name }); i >= 0 && goal != string(control.Failed) {
				return failure(p.others[i], name+": cannot be run")
			}
		} else {
			var rep report
			rep, next = a.board.get()
			last = rep.vassal
			if done, o := reached(rep, a.box.get().turn, goal); done {
				return o
			}
		}
		select {
		case <-next:
		case <-setNext:
		case <-ctx.Done():
			return timedOut(last, "wait "+goal)
		}
	}
}

// reached reports whether waiting for goal is over, and how. What is not
// settled yet can still become anything.
func reached(rep report, turn uint64, goal string) (bool, control.Outcome) {
	v := rep.vassal
	settled := rep.settled >= turn
	switch {
	case goal == "applied" && settled && v.Applied && rep.ok, goal == string(v.State) && (settled || v.State != control.Running):
		return true, control.Outcome{OK: true, Text: fmt.Sprintf("%s: %s, generation %d", v.Name, goal, v.Generation)}
	case goal == "gone" || !settled || goal == string(v.State):
		return false, control.Outcome{}
	}
	serves := goal == "applied" || goal == string(control.Running)
	refusedEdit := goal == "applied" && v.State == control.Running && !rep.ok
	if serves && (v.State == control.Failed || v.State == control.Stopped || v.State == control.Suspended) || refusedEdit {
		return true, failure(v, fmt.Sprintf("%s: will not be %s: it is %s", v.Name, goal, v.State))
	}
	return false, control.Outcome{}
}

// unheld is why nobody answers for a vassal on its listeners, nil where somebody
// does or there are none.
func unheld(v control.Vassal) *vassal.Problem {
	i := slices.IndexFunc(v.Problems, func(p vassal.Problem) bool { return p.Step == stepHold })
	if i < 0 {
		return nil
	}
	return &v.Problems[i]
}

// unsavedText warns that a wish which was fulfilled ends with this Emperor.
func unsavedText(v control.Vassal) string {
	i := slices.IndexFunc(v.Problems, func(p vassal.Problem) bool { return p.Code == vassal.CodeNotSaved })
	if i < 0 {
		return ""
	}
	return "; " + v.Problems[i].Message
}
