// Package certs holds the certificates that the core serves with, and chooses
// among them by the name that a client asks for:
//
//	s, problems := certs.New(app, log)     // from app.CertFiles
//	conf := s.Listener(i)                  // of app.Listen[i]
//	problems = s.Renew(files)              // new bytes of the same paths
//
// It opens nothing: whoever may read the files hands over their bytes, at the
// start and whenever they have changed. What is new is taken pair by pair: a
// certificate and a key that do not belong together, as there are for a moment
// while both are being replaced, and one that has expired where the old one
// has not, leave the old pair in place and are a problem.
//
// Handshakes that are going on, and connections, keep what they began with.
package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"liege/vassal"
	"liege/vassal/keypair"
)

// Store is the certificates of one App.
type Store struct {
	app *vassal.App

	mu  sync.Mutex // one Renew at a time
	cur atomic.Pointer[set]
}

// set is what is served with at one moment. It never changes.
type set struct {
	listen  []*entry // by listener; nil: speaks no TLS
	names   map[string]*entry
	regexps []matcher
	dir     map[string]*entry
	guarded bool // somewhere clients are asked for certificates
}

type matcher struct {
	re *regexp.Regexp
	e  *entry
}

// entry is one certificate, ready to be served with.
type entry struct {
	cert, key, ca []byte // as read
	pair          *keypair.Pair
	conf          *tls.Config // nil: clients of this name are sent away
	client        bool        // clients are asked for theirs
}

// protocols are those offered to clients of HTTP (ALPN).
var protocols = []string{"h2", "http/1.1"}

// New makes the Store of app. A pair that a line names and that cannot be
// served with is an error; one of sni-dir, where there may be hundreds, is a
// warning and left out.
func New(app *vassal.App) (*Store, vassal.Problems) {
	s := &Store{app: app}
	ps := s.Renew(app.CertFiles)
	return s, ps
}

// Renew replaces what files has new. Problems are about what could not be
// taken: those that are errors leave the old pair where there is one.
func (s *Store) Renew(files vassal.CertFiles) vassal.Problems {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := builder{app: s.app, files: files, old: s.cur.Load(), now: time.Now(), set: &set{names: map[string]*entry{}, dir: map[string]*entry{}}}
	if b.old == nil {
		b.old = &set{listen: make([]*entry, len(s.app.Listen))}
	}
	b.listeners()
	b.serverNames()
	b.directory()
	s.cur.Store(b.set)
	return b.problems
}

// Listener is the configuration of app.Listen[i]; nil: it speaks no TLS.
func (s *Store) Listener(i int) *tls.Config {
	l := &s.app.Listen[i]
	if l.TLS == nil {
		return nil
	}
	web := l.Protocol == vassal.HTTPS
	c := base()
	if web {
		c.NextProtos = protocols
	}
	c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		e := s.cur.Load().choose(i, hello.ServerName)
		if e == nil || e.conf == nil {
			return nil, errNone
		}
		if web {
			return e.conf, nil
		}
		plain := e.conf.Clone()
		plain.NextProtos = nil
		return plain, nil
	}
	return c
}

var (
	errNone   = errors.New("there is no certificate to serve with")
	errUnread = errors.New("it could not be read: what was read before stays, and without that nobody reaches the name")
	errNoPair = errors.New("it could not be read: what was read before stays, and without that the name is answered with another certificate")
)

// base is what all configurations have in common: TLS 1.2 and 1.3, the
// library's curves and, for 1.2, its suites; no compression, no renegotiation.
func base() *tls.Config { return &tls.Config{MinVersion: tls.VersionTLS12} }

// choose finds the certificate for a client of listener i that asks for name.
func (t *set) choose(i int, name string) *entry {
	if e := t.named(name); e != nil {
		return e
	}
	if i < len(t.listen) {
		return t.listen[i]
	}
	return nil
}

// named looks name up as uWSGI does: sni, then sni-regexp, then sni-dir.
func (t *set) named(name string) *entry {
	if name == "" {
		return nil
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if e := t.names[name]; e != nil {
		return e
	}
	for _, m := range t.regexps {
		if m.re.MatchString(name) {
			return m.e
		}
	}
	return t.dir[name]
}

// Misdirected reports whether a request for host may not be answered on a
// connection of listener i whose client asked for serverName: a certificate of
// the client's is asked for there that this client did not have to show.
func (s *Store) Misdirected(i int, serverName, host string) bool {
	t := s.cur.Load()
	if !t.guarded {
		return false
	}
	to := t.choose(i, host)
	return to != nil && to.client && to != t.choose(i, serverName)
}

// builder is one Renew.
type builder struct {
	app      *vassal.App
	files    vassal.CertFiles
	old, set *set
	now      time.Time
	problems vassal.Problems
}

func (b *builder) listeners() {
	b.set.listen = make([]*entry, len(b.app.Listen))
	for i := range b.app.Listen {
		if p := b.app.Listen[i].TLS; p != nil {
			b.set.listen[i] = b.entry(p, b.old.listen[i], vassal.Error)
		}
	}
}

func (b *builder) serverNames() {
	if b.app.TLS == nil {
		return
	}
	was := 0
	for i := range b.app.TLS.Names {
		n := &b.app.TLS.Names[i]
		if !n.Regexp {
			if e := b.entry(&n.KeyPair, b.old.names[n.Name], vassal.Error); e != nil {
				b.set.names[n.Name] = e
			}
			continue
		}
		var old *entry
		if was < len(b.old.regexps) {
			old = b.old.regexps[was].e
		}
		re, err := regexp.Compile(n.Name)
		if err != nil { // the reader of the file has compiled it
			b.report(&n.KeyPair, vassal.Error, n.Name, err, "")
			continue
		}
		if e := b.entry(&n.KeyPair, old, vassal.Error); e != nil {
			b.set.regexps = append(b.set.regexps, matcher{re, e})
			was++
		}
	}
}

// directory takes what sni-dir holds: NAME.crt with NAME.key, and NAME.ca for
// the clients. A key without a certificate is nothing. A name whose clients are
// to be asked for certificates, but cannot be, has nobody come in: else they
// would meet the listener's certificate, which asks for none.
func (b *builder) directory() {
	t := b.app.TLS
	if t == nil || t.Dir == "" {
		return
	}
	var paths []string
	for p := range b.files {
		if path.Dir(p) == t.Dir && strings.HasSuffix(p, ".crt") {
			paths = append(paths, p)
		}
	}
	slices.Sort(paths)
	for _, p := range paths {
		stem := strings.TrimSuffix(p, ".crt")
		pair := &vassal.KeyPair{Cert: p, Key: stem + ".key", Ciphers: t.DirCiphers, At: t.DirAt, OptionKey: "sni-dir"}
		if _, ok := b.files[stem+".ca"]; ok {
			pair.ClientCA = stem + ".ca"
		}
		name := strings.ToLower(path.Base(stem))
		old := b.old.dir[name]
		if old != nil && old.conf == nil {
			old = nil
		}
		e := b.entry(pair, old, vassal.Warning)
		if e == nil && pair.ClientCA != "" {
			e = &entry{client: true}
			b.keep(e)
		}
		if e != nil {
			b.set.dir[name] = e
		}
	}
}

func (b *builder) report(p *vassal.KeyPair, sev vassal.Severity, file string, err error, hint string) {
	b.problems = append(b.problems, vassal.Problem{Severity: sev, Code: vassal.CodeBadCertificate, File: p.At.File, Line: p.At.Line,
		Key: p.OptionKey, Step: "certificates", Message: fmt.Sprintf("%s: %v", file, err), Hint: hint})
}

// entry makes what p says of the files, or returns old where those cannot be
// served with.
func (b *builder) entry(p *vassal.KeyPair, old *entry, worst vassal.Severity) *entry {
	e := &entry{cert: b.files[p.Cert], key: b.files[p.Key], ca: b.files[p.ClientCA], client: p.ClientCA != ""}
	if old != nil && bytes.Equal(e.cert, old.cert) && bytes.Equal(e.key, old.key) && bytes.Equal(e.ca, old.ca) && e.client == old.client {
		b.keep(old)
		b.age(p, old)
		return old
	}
	file, err := b.ready(e, p)
	if err == nil && old != nil && e.pair.Expired(b.now) && !old.pair.Expired(b.now) {
		file, err = p.Cert, fmt.Errorf("%s; the one before it is still valid and stays", e.pair.Trouble(b.now))
	}
	if err != nil {
		b.report(p, worst, file, err, keypair.Hint(err))
		if old != nil {
			b.keep(old)
		}
		return old
	}
	b.keep(e)
	b.age(p, e)
	return e
}

// ready makes e fit to serve with, or says which file keeps it from that.
func (b *builder) ready(e *entry, p *vassal.KeyPair) (file string, err error) {
	none := errNoPair
	if e.client {
		none = errUnread
	}
	switch {
	case e.cert == nil:
		return p.Cert, none
	case e.key == nil:
		return p.Key, none
	}
	if e.pair, err = keypair.Parse(e.cert, e.key); err != nil {
		if keypair.IsCertificate(err) {
			return p.Cert, err
		}
		return p.Key, err
	}
	if err = e.configure(p, b.depth()); e.client && e.ca == nil {
		err = errUnread
	}
	return p.ClientCA, err
}

func (b *builder) keep(e *entry) { b.set.guarded = b.set.guarded || e.client }

// age warns of a certificate that browsers refuse, or soon will.
func (b *builder) age(p *vassal.KeyPair, e *entry) {
	if why := e.pair.Trouble(b.now); why != "" {
		b.report(p, vassal.Warning, p.Cert, errors.New(why), "renew it; it is taken over without a reload")
	}
}

func (b *builder) depth() int {
	if b.app.TLS == nil {
		return 0
	}
	return b.app.TLS.Depth
}

// configure makes the configuration that clients of e meet.
func (e *entry) configure(p *vassal.KeyPair, depth int) error {
	c := base()
	c.NextProtos = protocols
	c.CipherSuites = p.Ciphers
	c.Certificates = []tls.Certificate{{Certificate: e.pair.Chain, PrivateKey: e.pair.Key, Leaf: e.pair.Leaf}}
	if e.client {
		authorities, err := keypair.Authorities(e.ca)
		if err != nil {
			return err
		}
		c.ClientCAs = x509.NewCertPool()
		for _, a := range authorities {
			c.ClientCAs.AddCert(a)
		}
		c.ClientAuth = tls.VerifyClientCertIfGiven
		if p.ClientMust {
			c.ClientAuth = tls.RequireAndVerifyClientCert
		}
		c.VerifyConnection = func(st tls.ConnectionState) error { return deepEnough(st.VerifiedChains, depth) }
		// Tickets are the listener's, for all its names: with one, a client
		// would carry what one name's authority said over to another name.
		c.SessionTicketsDisabled = true
	}
	e.conf = c
	return nil
}

// deepEnough refuses a client whose shortest chain has more than depth
// certificates between its own and the authority's, as OpenSSL counts.
func deepEnough(chains [][]*x509.Certificate, depth int) error {
	for _, c := range chains {
		if len(c)-2 <= depth {
			return nil
		}
	}
	if len(chains) == 0 {
		return nil // a client without a certificate
	}
	return fmt.Errorf("more than %d certificates between the client's and its authority's (ssl-verify-depth)", depth)
}
