package main

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"liege/emperor/asuser"
	"liege/emperor/certs"
	"liege/emperor/resolve"
	"liege/vassal"
	"liege/vassal/keypair"
)

// certificates looks at what the listeners and server names of r would be
// served with: every problem, and for explain what there is, by the path of
// the certificate. Nothing of a key is shown.
func certificates(ctx context.Context, r *resolve.Result) (map[string]string, vassal.Problems) {
	app := r.App
	app.Listen = r.Listen
	if !app.SpeaksTLS() {
		return nil, nil
	}
	var from certs.From = certs.Root{}
	switch {
	case os.Geteuid() != 0:
		from = certs.Caller{}
	case !r.Config.Trust.Operator:
		s, err := asuser.Start(ctx, asuser.Who{UID: r.UID, GID: r.GID, Groups: r.Plan.Groups})
		if err != nil {
			return nil, vassal.AsProblems(err, "certificates", vassal.CodeBadCertificate)
		}
		defer s.Close()
		from = certs.User{Session: s}
	}
	files, ps := certs.Read(from, &app)
	e := examiner{files: files, said: map[string]string{}, problems: denied(ps), now: time.Now()}
	for _, p := range app.KeyPairs() {
		e.pair(p, vassal.Error)
	}
	e.directory(app.TLS)
	return e.said, e.problems
}

// denied makes a warning of what only this caller may not read: the Emperor
// may.
func denied(ps vassal.Problems) vassal.Problems {
	for i := range ps {
		if os.Geteuid() != 0 && strings.HasSuffix(ps[i].Message, ": permission denied") {
			ps[i].Severity, ps[i].Hint = vassal.Warning, "sudo liege check looks into it"
		}
	}
	return ps
}

type examiner struct {
	files    vassal.CertFiles
	said     map[string]string
	problems vassal.Problems
	now      time.Time
}

func (e *examiner) report(p *vassal.KeyPair, sev vassal.Severity, file, msg, hint string) {
	e.problems = append(e.problems, vassal.Problem{Severity: sev, Code: vassal.CodeBadCertificate, File: p.At.File, Line: p.At.Line,
		Key: p.OptionKey, Step: "certificates", Message: file + ": " + msg, Hint: hint})
}

// pair looks at one. A file that could not be read has its problem already.
func (e *examiner) pair(p *vassal.KeyPair, worst vassal.Severity) {
	for _, f := range p.Files() {
		if e.files[f] == nil {
			return
		}
	}
	pair, err := keypair.Parse(e.files[p.Cert], e.files[p.Key])
	if err != nil {
		file := p.Key
		if keypair.IsCertificate(err) {
			file = p.Cert
		}
		e.report(p, worst, file, err.Error(), keypair.Hint(err))
		return
	}
	if p.ClientCA != "" {
		if _, err := keypair.Authorities(e.files[p.ClientCA]); err != nil {
			e.report(p, worst, p.ClientCA, err.Error(), "")
		}
	}
	if why := pair.Trouble(e.now); why != "" {
		e.report(p, vassal.Warning, p.Cert, why, "renew it; a running vassal takes it over without a reload")
	}
	e.said[p.Cert] = fmt.Sprintf("%s, until %s", strings.Join(pair.Names(), " "), pair.Leaf.NotAfter.UTC().Format(time.DateOnly))
}

// directory looks at what sni-dir holds.
func (e *examiner) directory(t *vassal.TLS) {
	if t == nil || t.Dir == "" {
		return
	}
	var stems []string
	for f := range e.files {
		if stem, ok := strings.CutSuffix(f, ".crt"); ok && path.Dir(f) == t.Dir {
			stems = append(stems, stem)
		}
	}
	slices.Sort(stems)
	for _, stem := range stems {
		p := &vassal.KeyPair{Cert: stem + ".crt", Key: stem + ".key", OptionKey: "sni-dir", At: t.DirAt}
		if _, ok := e.files[stem+".ca"]; ok {
			p.ClientCA = stem + ".ca"
		}
		e.pair(p, vassal.Warning)
	}
}

// serverNames are the certificates that explain names beside the listeners'.
func serverNames(f checked) (out []explained) {
	t := f.result.App.TLS
	if t == nil {
		return nil
	}
	for _, n := range t.Names {
		out = append(out, explained{n.Name, certificateText(f, &n.KeyPair), origin(n.At)})
	}
	if t.Dir != "" {
		n := 0
		for cert := range f.certs {
			if path.Dir(cert) == t.Dir {
				n++
			}
		}
		out = append(out, explained{t.Dir, fmt.Sprintf("%d %s by server name", n, plural(n, "certificate", "certificates")), origin(t.DirAt)})
	}
	return out
}

// certificateText says plainly who holds the key.
func certificateText(f checked, p *vassal.KeyPair) string {
	text := "certificate " + p.Cert
	if said := f.certs[p.Cert]; said != "" {
		text += " (" + said + ")"
	}
	text += "; the vassal's processes hold its private key"
	if p.ClientCA != "" {
		text += "; clients " + ifs(p.ClientMust, "must ") + ifs(!p.ClientMust, "may ") + "show one of " + p.ClientCA
	}
	return text
}
