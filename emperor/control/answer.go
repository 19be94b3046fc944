package control

import (
	"context"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"liege/vassal"
)

// answer deals with one request of p. ctx ends with its client, base with the
// server.
func (s *Server) answer(ctx, base context.Context, r Request, p peer, w *replies, files []*os.File) {
	class, _ := ClassOf(r.Verb)
	full := s.full(p)
	if class == Admin && p.uid != 0 {
		w.fail(77, vassal.CodeNotPermitted, string(r.Verb)+": not permitted", "only root may do that")
		return
	}
	if r.Verb == About {
		w.send(Reply{OK: true, Version: s.Version, Binary: s.Binary, Done: true})
		return
	}
	if r.Timeout > 0 { // of everything together
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.Timeout)
		defer cancel()
	}
	if !full && class > Mend {
		w.fail(77, vassal.CodeNotPermitted, string(r.Verb)+": not permitted", "a vassal's own user may look at it and reload it; sudo, or be in the control group")
		return
	}
	if r.Verb == Enter {
		s.enterVassal(ctx, r, p, w, files)
		return
	}
	switch r.Verb {
	case Reload, Restart, Start, Resume, Wait:
		if err := s.refresh(ctx, base, full); err != nil {
			w.fail(75, vassal.CodeTimedOut, string(r.Verb)+": the vassal files were not read in time", "")
			return
		}
	}
	var all []Vassal
	if full {
		all = s.Backend.Vassals(ctx)
	} else {
		for _, v := range s.Backend.VassalsOf(ctx, int(p.uid)) {
			all = append(all, veiled(v))
		}
	}
	if class == Read && r.Verb != Wait {
		s.show(r, all, w)
		return
	}
	names, missing := pick(r, all, full && r.Verb == Wait)
	for _, n := range missing {
		w.send(noSuch(n))
	}
	by := map[string]Vassal{}
	for _, v := range all {
		by[v.Name] = v
	}
	names = slices.DeleteFunc(names, func(n string) bool {
		why := leftAlone(r, all, n)
		if why != "" {
			w.send(Reply{Name: n, OK: true, Text: n + ": " + why + ", and left alone"})
		}
		return why != ""
	})
	code := s.each(ctx, r, p, names, func(rep Reply) {
		if rep.Problem != nil && !full {
			p := veil(*rep.Problem, by[rep.Name])
			rep.Problem = &p
		}
		w.send(rep)
	})
	if len(missing) > 0 {
		code = max(code, 66)
	}
	w.send(Reply{OK: code == 0, Code: code, Done: true})
}

// enterVassal answers enter. Whoever was in a tenant's sandbox, when and with
// which command is in the log.
func (s *Server) enterVassal(ctx context.Context, r Request, p peer, w *replies, files []*os.File) {
	if want := map[bool]int{true: 1, false: maxFiles}[r.Console]; len(files) != want {
		w.fail(64, vassal.CodeBadRequest, "enter: the descriptors did not come with the request", "")
		return
	}
	name := r.Names[0]
	s.Log.Info("enters", "vassal", name, "by", p.String(), "pid", p.pid, "root", r.Root, "command", clip(strings.Join(r.Command, " ")))
	o := s.Backend.Enter(ctx, name, r, p.String(), files)
	s.Log.Info("control", "verb", string(r.Verb), "vassal", name, "by", p.String(), "ok", o.OK, "code", o.Code)
	if o.OK {
		w.send(Reply{Name: name, OK: true, Code: o.Code})
	}
	w.send(Reply{Name: name, OK: o.OK, Code: o.Code, Text: o.Text, Problem: o.Problem, Done: true})
}

// show answers list, status and logs.
func (s *Server) show(r Request, all []Vassal, w *replies) {
	if len(r.Names) == 0 {
		r.All = true
	}
	code := 0
	found := make([]bool, len(r.Names))
	for i := range all {
		v, meant := &all[i], r.All
		for j, n := range r.Names {
			if (!meant || !found[j]) && match(n, v.Name) {
				meant, found[j] = true, true
			}
		}
		if !meant {
			continue
		}
		if r.Verb == Logs {
			rep := Reply{Name: v.Name, OK: v.Log != nil}
			if v.Log != nil {
				rep.Path = *v.Log
			}
			w.send(rep)
			continue
		}
		w.send(Reply{Vassal: v, Name: v.Name, OK: true})
	}
	for j, n := range r.Names {
		// A pattern of list that fits nothing is an empty list.
		if !found[j] && (r.Verb != List || !isPattern(n)) {
			code = 66
			w.send(noSuch(n))
		}
	}
	w.send(Reply{OK: code == 0, Code: code, Done: true})
}

// pick returns the names that r means, and what fits no vassal. A plain name
// that is unknown is picked where future says that it may still come.
func pick(r Request, all []Vassal, future bool) (names, missing []string) {
	for _, v := range all {
		if r.All && !slices.Contains(names, v.Name) {
			names = append(names, v.Name)
		}
	}
	for _, n := range r.Names {
		found := false
		for _, v := range all {
			if match(n, v.Name) {
				found = true
				if !slices.Contains(names, v.Name) {
					names = append(names, v.Name)
				}
			}
		}
		switch {
		case found:
		case future && !isPattern(n), r.Goal == "gone" && future:
			if !slices.Contains(names, n) && !isPattern(n) {
				names = append(names, n)
			}
		default:
			missing = append(missing, n)
		}
	}
	return names, missing
}

// leftAlone says why a wish for many does not concern the vassal called name: it
// is not for those that somebody stopped or suspended, unless they are named.
func leftAlone(r Request, all []Vassal, name string) string {
	if slices.Contains(r.Names, name) || r.Verb != Reload && r.Verb != Restart && r.Verb != Start {
		return ""
	}
	i := slices.IndexFunc(all, func(v Vassal) bool { return v.Name == name })
	if i >= 0 && (all[i].State == Suspended || all[i].State == Stopped && r.Verb != Start) {
		return "is " + string(all[i].State)
	}
	return ""
}

func match(pattern, name string) bool {
	if pattern == name {
		return true
	}
	ok, _ := path.Match(pattern, name)
	return ok
}

func isPattern(s string) bool { return strings.ContainsAny(s, "*?[\\") }

// each passes r on to every name, as many at once as may start at once, and
// returns the worst code.
func (s *Server) each(ctx context.Context, r Request, p peer, names []string, send func(Reply)) int {
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		worst int
	)
	width := max(s.Backend.Concurrency(), 1)
	if r.NoWait || r.Verb == Wait || r.Verb == Stop || r.Verb == Suspend {
		width = len(names) // these start nothing, or are queued by the Emperor
	}
	turn := make(chan struct{}, max(width, 1))
	for _, n := range names {
		select {
		case turn <- struct{}{}:
		case <-ctx.Done():
			mu.Lock()
			worst = max(worst, 75)
			mu.Unlock()
			send(Reply{Name: n, Code: 75, Text: n + ": not begun in time"})
			continue
		}
		wg.Go(func() {
			defer func() { <-turn }()
			ctx := ctx
			if r.Timeout == 0 { // each has its own, or many could never all be reloaded
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
				defer cancel()
			}
			var o Outcome
			if r.Verb == Wait {
				o = s.Backend.Await(ctx, n, r.Goal)
			} else {
				o = s.Backend.Act(ctx, n, r, p.String())
				s.Log.Info("control", "verb", string(r.Verb), "vassal", n, "by", p.String(), "ok", o.OK)
			}
			mu.Lock()
			worst = max(worst, o.Code)
			mu.Unlock()
			send(Reply{Name: n, OK: o.OK, Code: o.Code, Text: o.Text, Problem: o.Problem})
		})
	}
	wg.Wait()
	return worst
}
