package main

import (
	"encoding/json"
	"time"

	"liege/emperor/asuser"
	"liege/emperor/certs"
	"liege/sandbox/stage"
	"liege/vassal"
)

// lookAgain is how often liege serve looks for new certificates and touched files,
// as often as the Emperor does.
const lookAgain = 3 * time.Second

// certificates reads what a generation serves with, as the caller.
func (s *server) certificates(app *vassal.App) vassal.Problems {
	s.secure = nil
	if !app.SpeaksTLS() {
		return nil
	}
	s.secure = certs.NewWatch(looksOfCaller, app)
	files, problems := certs.Read(certs.Caller{}, app)
	s.secure.Taken(app, files)
	app.CertFiles = files
	if !problems.Failed() {
		s.warn(problems)
	}
	return problems
}

// looksOfCaller asks for the state of files as this process.
func looksOfCaller(paths []string) []string { return asuser.Looks(asuser.Who{}, paths) }

// renew hands over certificates that have changed.
func (s *server) renew(g *generation, app *vassal.App) {
	if s.secure == nil || !s.secure.Changed() {
		return
	}
	files, problems := certs.Read(certs.Caller{}, app)
	s.secure.Taken(app, files)
	s.warn(problems)
	if problems.Failed() {
		return
	}
	text, err := json.Marshal(files)
	if err != nil {
		return // cannot be: the type holds no such value
	}
	f, err := stage.Seal("liege-certificates", text)
	if err != nil {
		s.warn(vassal.AsProblems(err, "certificates", vassal.CodeBadCertificate))
		return
	}
	defer f.Close()
	_ = g.control.SendFile(vassal.Certificates, f) // a core that is gone is noticed by Wait
}
