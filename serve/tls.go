package serve

import (
	"liege/serve/certs"
	"liege/serve/front"
	"liege/vassal"
)

// secure prepares TLS, if there is any. A certificate that cannot be served
// with is an error, one that is old a note.
func (c *Core) secure() error {
	if !c.app.SpeaksTLS() {
		return nil
	}
	store, problems := certs.New(c.app)
	c.app.CertFiles = nil // the keys are in store
	if c.app.Hold == nil && problems.Failed() {
		return problems
	}
	c.certs, c.notes = store, problems
	return nil
}

// Renew takes new certificates, and returns what is wrong with those that were
// not taken.
func (c *Core) Renew(files vassal.CertFiles) vassal.Problems {
	if c.certs == nil {
		return nil
	}
	return c.certs.Renew(files)
}

// listener is app.Listen[i] as the front serves it.
func (c *Core) listener(i int) front.Listener {
	l := &c.app.Listen[i]
	out := front.Listener{Protocol: l.Protocol, Modifier1: l.Modifier1}
	if l.Protocol == vassal.Redirect && c.app.Hold == nil {
		out.Handler = front.ToHTTPS(l.HTTPSPort)
	}
	if c.certs == nil || l.TLS == nil {
		return out
	}
	out.Secure = &front.Secure{Config: c.certs.Listener(i),
		Misdirected: func(name, host string) bool { return c.certs.Misdirected(i, name, host) }}
	if t := c.app.TLS; t != nil {
		out.Secure.Export, out.Secure.Verbose = t.ExportCert, t.Verbose
	}
	return out
}
