package launch

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"liege/emperor"
	"liege/emperor/asuser"
	"liege/emperor/certs"
	"liege/sandbox/stage"
	"liege/vassal"
)

// Certificates (CONTRACT 21): their files are opened here, as root for an
// operator's file and as the user for a tenant's; their bytes go to the core
// inside the sealed App. While the generation serves they are watched, and what
// is new goes to it over the control channel. What is in them only the core
// looks at.

// recheck is how often certificates that did not change are handed over again:
// the core then says which of them expire soon.
const recheck = 12 * time.Hour

// certificates reads what the generation serves with.
func (s *start) certificates(ctx context.Context) error {
	r := s.p.Result
	if app := s.app(); !app.SpeaksTLS() {
		return nil
	}
	if s.certs == nil {
		s.certs = s.p
	}
	s.watch = certs.NewWatch(s.certs.look(), s.app())
	from, err := s.certsFrom(ctx)
	if err != nil {
		return err
	}
	s.files, s.found = certs.Read(certsAt{from, s.l}, s.app())
	s.watch.Taken(s.app(), s.files)
	if s.found.Failed() && r.App.Hold == nil {
		return s.found
	}
	for _, p := range s.found {
		s.l.log.Note("%s", p.Error())
	}
	return nil
}

// certsFrom is as whom the start reads them: the child that it has for all else,
// unless they are another file's, which it is held for.
func (s *start) certsFrom(ctx context.Context) (certs.From, error) {
	if s.certs == s.p && !s.p.Config.Trust.Operator {
		user, err := s.asUser(ctx)
		return certs.User{Session: user}, err
	}
	from, done, err := s.certs.from(ctx)
	if err == nil {
		s.undo = append(s.undo, done)
	}
	return from, err
}

// app is the App whose listeners are the resolved ones.
func (s *start) app() *vassal.App {
	app := s.p.Result.App
	app.Listen = s.p.Result.Listen
	return &app
}

// from is as whom the files are read. done ends it.
func (p *prepared) from(ctx context.Context) (from certs.From, done func(), err error) {
	if p.Config.Trust.Operator {
		return certs.Root{}, func() {}, nil
	}
	user, err := asuser.Start(ctx, who(p.Result))
	if err != nil {
		return nil, nil, err
	}
	return certs.User{Session: user}, func() { user.Close() }, nil
}

// look says how the state of files is asked for: as root nothing but that.
func (p *prepared) look() certs.Look {
	as := asuser.Who{}
	if !p.Config.Trust.Operator {
		as = who(p.Result)
	}
	return func(paths []string) []string { return asuser.Looks(as, paths) }
}

// renewing hands over certificates that have changed, from when the generation
// serves until it ends.
func (in *instance) renewing(s *start) {
	w, app := s.watch, s.app()
	select {
	case <-in.serving:
	case <-in.box.Done():
		return
	}
	t := time.NewTicker(emperor.LookAgain)
	defer t.Stop()
	again := time.NewTicker(recheck)
	defer again.Stop()
	for {
		var due bool
		select {
		case <-in.box.Done():
			return
		case <-again.C:
			due = true
		case <-t.C:
		}
		if !w.Changed() && !due {
			continue
		}
		if err := in.renew(s.certs, w, app); err != nil {
			in.l.host.Log.Warn("certificates", "vassal", in.l.name, "gen", in.gen, "err", err)
		}
	}
}

// renew reads the certificates anew and hands them over. What cannot be read
// is shown, and the old ones stay.
func (in *instance) renew(p *prepared, w *certs.Watch, app *vassal.App) error {
	from, done, err := p.from(in.ctx)
	if err != nil {
		return err
	}
	defer done()
	files, ps := certs.Read(from, app)
	w.Taken(app, files)
	in.mu.Lock()
	in.unread = ps
	in.mu.Unlock()
	for _, p := range ps {
		in.log.Note("%s", p.Error())
	}
	if ps.Failed() {
		return nil
	}
	text, err := json.Marshal(files)
	if err != nil {
		return err
	}
	f, err := stage.Seal("liege-certificates", text)
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	defer f.Close()
	return in.control.SendFile(vassal.Certificates, f)
}

// Troubles implements emperor.Troubled.
func (in *instance) Troubles() vassal.Problems {
	gone := slices.Concat(in.relayGone(), in.unlogged())
	in.mu.Lock()
	defer in.mu.Unlock()
	return slices.Concat(in.unread, in.untaken, in.blocked, gone, in.unrecorded())
}

// renewed notes what the core says about certificates.
func (in *instance) renewed(notes vassal.Problems) {
	claims := in.claims(notes, vassal.Warning)
	for _, p := range claims {
		in.log.Note("%s", p.Error())
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	in.untaken = claims
}

// notCertificates takes what is about certificates out of a core's notes: that
// is news of the moment, not of the start.
func (in *instance) notCertificates(notes vassal.Problems) vassal.Problems {
	mine := func(p vassal.Problem) bool { return p.Code == vassal.CodeBadCertificate }
	var about vassal.Problems
	for _, p := range notes {
		if mine(p) {
			about = append(about, p)
		}
	}
	in.mu.Lock()
	in.untaken = in.claims(about, vassal.Warning)
	in.mu.Unlock()
	return slices.DeleteFunc(notes, mine)
}
