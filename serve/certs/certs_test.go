package certs

import (
	"crypto/tls"
	"io"
	"maps"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"liege/internal/testcert"
	"liege/internal/testenv"
	"liege/vassal"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// pair names the files of the certificate called name.
func pair(name, ca string) vassal.KeyPair {
	return vassal.KeyPair{Cert: "/c/" + name + ".crt", Key: "/c/" + name + ".key", ClientCA: ca, OptionKey: "https", At: vassal.Origin{File: "x.ini", Line: 7}}
}

// files is what was read.
func files(ms map[string]*testcert.Made) vassal.CertFiles {
	out := vassal.CertFiles{}
	for name, m := range ms {
		out["/c/"+name+".crt"], out["/c/"+name+".key"] = m.Cert, m.Key
	}
	return out
}

func app(files vassal.CertFiles) *vassal.App {
	p, shop, wild := pair("main", ""), pair("shop", ""), pair("wild", "")
	return &vassal.App{Listen: []vassal.Listener{{Protocol: vassal.HTTPS, TLS: &p}, {Protocol: vassal.HTTP}}, CertFiles: files,
		TLS: &vassal.TLS{Names: []vassal.ServerName{{Name: "shop.example", KeyPair: shop}, {Name: `^.*\.wild\.example$`, Regexp: true, KeyPair: wild}},
			Dir: "/c/dir", Depth: 1}}
}

// meet makes a handshake with s's first listener and returns whose certificate
// it was; with which protocol.
func meet(t *testing.T, s *Store, name string, conf *tls.Config) (subject, proto string, err error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	server := tls.Server(a, s.Listener(0))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if server.Handshake() == nil {
			_, _ = io.WriteString(server, "x") // a client of TLS 1.3 learns only now that it is refused
		} else {
			a.Close()
		}
	}()
	if conf == nil {
		conf = &tls.Config{}
	}
	conf.ServerName, conf.InsecureSkipVerify, conf.NextProtos = name, true, []string{"h2", "http/1.1"}
	client := tls.Client(b, conf)
	if err = client.Handshake(); err == nil {
		_, err = client.Read(make([]byte, 1))
	}
	if err == nil {
		st := client.ConnectionState()
		subject, proto = st.PeerCertificates[0].Subject.CommonName, st.NegotiatedProtocol
	}
	b.Close()
	<-done
	return subject, proto, err
}

// TestChoice: which certificate a client meets.
func TestChoice(t *testing.T) {
	testenv.Leaks(t)
	ms := map[string]*testcert.Made{}
	for _, n := range []string{"main", "shop", "wild", "dir/inner.example", "dir/shop.example"} {
		ms[n] = testcert.New(t, testcert.Cert{Name: n})
	}
	s, ps := New(app(files(ms)))
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	if s.Listener(1) != nil {
		t.Error("a listener in the clear speaks TLS")
	}
	for name, want := range map[string]string{"": "main", "other.example": "main", "shop.example": "shop", "SHOP.example": "shop",
		"a.wild.example": "wild", "wild.example": "main", "inner.example": "dir/inner.example", "../main": "main"} {
		got, proto, err := meet(t, s, name, nil)
		if err != nil || got != want || proto != "h2" {
			t.Errorf("%q: %s by %s, want %s (%v)", name, got, proto, want, err)
		}
	}
	if _, _, err := meet(t, s, "", &tls.Config{MaxVersion: tls.VersionTLS11}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

// TestRenew: what is taken of new files, and what is not.
func TestRenew(t *testing.T) {
	first, second := testcert.New(t, testcert.Cert{Name: "first"}), testcert.New(t, testcert.Cert{Name: "second"})
	old := testcert.New(t, testcert.Cert{Name: "old", NotAfter: time.Now().Add(-time.Hour)})
	soon := testcert.New(t, testcert.Cert{Name: "soon", NotAfter: time.Now().Add(24 * time.Hour)})
	other := testcert.New(t, testcert.Cert{Name: "other"})
	with := func(cert, key []byte) vassal.CertFiles {
		f := files(map[string]*testcert.Made{"shop": other, "wild": other})
		f["/c/main.crt"], f["/c/main.key"] = cert, key
		return f
	}
	s, ps := New(app(with(first.Cert, first.Key)))
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	for _, c := range []struct {
		name      string
		cert, key []byte
		serves    string
		problem   string
		failed    bool
	}{
		{"the certificate came first", second.Cert, first.Key, "first", "does not belong", true},
		{"then its key", second.Cert, second.Key, "second", "", false},
		{"the same again", second.Cert, second.Key, "second", "", false},
		{"one that has expired", old.Cert, old.Key, "second", "the one before it is still valid", true},
		{"an empty file", []byte{}, second.Key, "second", "no certificate", true},
		{"one that expires soon", soon.Cert, soon.Key, "soon", "expires on", false},
		{"nothing new, still soon", soon.Cert, soon.Key, "soon", "expires on", false},
	} {
		ps := s.Renew(with(c.cert, c.key))
		if ps.Failed() != c.failed || (len(ps) > 0) != (c.problem != "") || c.problem != "" && !strings.Contains(ps[0].Message, c.problem) {
			t.Errorf("%s: %v", c.name, ps)
		}
		if len(ps) > 0 && (ps[0].File != "x.ini" || ps[0].Line != 7 || ps[0].Code != vassal.CodeBadCertificate) {
			t.Errorf("%s: where? %+v", c.name, ps[0])
		}
		if got, _, err := meet(t, s, "", nil); got != c.serves {
			t.Errorf("%s: %s serves, want %s (%v)", c.name, got, c.serves, err)
		}
	}
}

// TestDirectory: files of sni-dir come, go, and are broken, without harm to
// others.
func TestDirectory(t *testing.T) {
	other, a, b := testcert.New(t, testcert.Cert{Name: "other"}), testcert.New(t, testcert.Cert{Name: "a"}), testcert.New(t, testcert.Cert{Name: "b"})
	ms := map[string]*testcert.Made{"main": other, "shop": other, "wild": other, "dir/a.example": a}
	broken := files(ms)
	broken["/c/dir/b.example.crt"], broken["/c/dir/b.example.key"] = b.Cert, a.Key
	s, ps := New(app(broken))
	if ps.Failed() || len(ps) != 1 || ps[0].Severity != vassal.Warning || !strings.Contains(ps[0].Message, "/c/dir/b.example.key") {
		t.Errorf("a broken one: %v", ps)
	}
	for _, step := range []struct {
		ms     map[string]*testcert.Made
		name   string
		serves string
	}{
		{ms, "b.example", "other"},
		{map[string]*testcert.Made{"main": other, "shop": other, "wild": other, "dir/a.example": a, "dir/b.example": b}, "b.example", "b"},
		{map[string]*testcert.Made{"main": other, "shop": other, "wild": other, "dir/b.example": b}, "a.example", "other"},
	} {
		s.Renew(files(step.ms))
		if got, _, err := meet(t, s, step.name, nil); got != step.serves {
			t.Errorf("%s: %s, want %s (%v)", step.name, got, step.serves, err)
		}
	}
}

// TestUnreadInDirectory: of a name in sni-dir whose files cannot be read what was read
// before stays, and its clients are asked for certificates all the same; that is said,
// and others are served.
func TestUnreadInDirectory(t *testing.T) {
	other, a, b := testcert.New(t, testcert.Cert{Name: "other"}), testcert.New(t, testcert.Cert{Name: "a"}), testcert.New(t, testcert.Cert{Name: "b"})
	whole := files(map[string]*testcert.Made{"main": other, "shop": other, "wild": other, "dir/a.example": a, "dir/b.example": b})
	for _, tt := range []struct {
		name    string
		unread  []string
		ca      bool
		fresh   string // what a new start serves; empty: nobody gets there
		warning string
	}{
		{"certificate", []string{"crt"}, false, "other", "b.example.crt"},
		{"key", []string{"key"}, false, "other", "b.example.key"},
		{"both", []string{"crt", "key"}, false, "other", "b.example.crt"},
		{"certificate, with an authority", []string{"crt"}, true, "", "b.example.crt"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			unread := maps.Clone(whole)
			for _, end := range tt.unread {
				unread["/c/dir/b.example."+end] = nil
			}
			before := whole
			if tt.ca {
				before = maps.Clone(whole)
				before["/c/dir/b.example.ca"], unread["/c/dir/b.example.ca"] = other.Cert, other.Cert
			}
			for _, s := range []struct {
				name, serves string
				was          vassal.CertFiles
			}{{"renewed", "b", before}, {"started", tt.fresh, nil}} {
				store, ps := New(app(unread))
				if s.was != nil {
					store, _ = New(app(s.was))
					ps = store.Renew(unread)
				}
				if ps.Failed() || len(ps) != 1 || !strings.Contains(ps[0].Message, tt.warning) {
					t.Errorf("%s: %v", s.name, ps)
				}
				if got, _, err := meet(t, store, "b.example", nil); got != s.serves {
					t.Errorf("%s: %q serves, want %q (%v)", s.name, got, s.serves, err)
				}
				if got, _, err := meet(t, store, "a.example", nil); got != "a" {
					t.Errorf("%s, another name: %q (%v)", s.name, got, err)
				}
			}
		})
	}
}

// TestClients: who must show a certificate, and by whom it must be.
func TestClients(t *testing.T) {
	ca, stranger := testcert.New(t, testcert.Cert{Name: "ca", CA: true}), testcert.New(t, testcert.Cert{Name: "stranger", CA: true})
	middle := testcert.New(t, testcert.Cert{Name: "middle", CA: true, By: ca})
	lower := testcert.New(t, testcert.Cert{Name: "lower", CA: true, By: middle})
	main := testcert.New(t, testcert.Cert{Name: "main"})
	client := func(by *testcert.Made, chain ...*testcert.Made) *tls.Config {
		c := testcert.New(t, testcert.Cert{Name: "joe", By: by}).TLS(t)
		for _, m := range chain {
			c.Certificate = append(c.Certificate, m.X509.Raw)
		}
		return &tls.Config{Certificates: []tls.Certificate{c}}
	}
	for _, must := range []bool{false, true} {
		p := pair("main", "/c/ca.crt")
		p.ClientMust = must
		f := files(map[string]*testcert.Made{"main": main})
		f["/c/ca.crt"] = ca.Cert
		s, ps := New(&vassal.App{Listen: []vassal.Listener{{Protocol: vassal.HTTPS, TLS: &p}}, CertFiles: f, TLS: &vassal.TLS{Depth: 1}})
		if len(ps) > 0 {
			t.Fatal(ps)
		}
		for _, c := range []struct {
			name string
			conf *tls.Config
			ok   bool
		}{
			{"none", &tls.Config{}, !must},
			{"of the authority", client(ca), true},
			{"one between", client(middle, middle), true},
			{"two between", client(lower, lower, middle), false},
			{"of a stranger", client(stranger), false},
		} {
			if c.name == "of a stranger" { // the client would not even offer it
				cert := c.conf.Certificates[0]
				c.conf = &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &cert, nil }}
			}
			if _, _, err := meet(t, s, "", c.conf); (err == nil) != c.ok {
				t.Errorf("must %t, %s: %v", must, c.name, err)
			}
		}
	}
}

// TestUnreadableCA: while NAME.ca cannot be used clients of NAME are asked for
// certificates as before, and where there was nothing before nobody comes in.
func TestUnreadableCA(t *testing.T) {
	main, a := testcert.New(t, testcert.Cert{Name: "main"}), testcert.New(t, testcert.Cert{Name: "a"})
	ms := map[string]*testcert.Made{"main": main, "shop": main, "wild": main, "dir/a.example": a}
	with := func(ca []byte) vassal.CertFiles {
		fs := files(ms)
		fs["/c/dir/a.example.ca"] = ca
		return fs
	}
	asked := func(s *Store) (asked bool, who string) {
		t.Helper()
		who, _, _ = meet(t, s, "a.example", &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			asked = true
			return &tls.Certificate{}, nil
		}})
		return asked, who
	}
	for what, ca := range map[string][]byte{"unreadable": nil, "broken": []byte("x")} {
		s, ps := New(app(with(a.Cert)))
		if len(ps) > 0 {
			t.Fatal(ps)
		}
		for range 2 {
			if ps = s.Renew(with(ca)); len(ps) != 1 || ps.Failed() || !strings.HasPrefix(ps[0].Message, "/c/dir/a.example.ca: ") {
				t.Errorf("%s: %v", what, ps)
			}
			if ok, who := asked(s); !ok || who != "a" {
				t.Errorf("%s: %t, %q", what, ok, who)
			}
		}
		s, _ = New(app(with(ca)))
		s.Renew(with(ca))
		if _, who := asked(s); who != "" || !s.Misdirected(0, "", "a.example") {
			t.Errorf("%s from the start: a client meets %q, and may ask over another name's connection: %t", what, who, !s.Misdirected(0, "", "a.example"))
		}
		s.Renew(with(a.Cert))
		if ok, who := asked(s); !ok || who != "a" {
			t.Errorf("%s, then mended: %t, %q", what, ok, who)
		}
		s.Renew(files(ms))
		if ok, who := asked(s); ok || who != "a" {
			t.Errorf("%s, then gone: %t, %q", what, ok, who)
		}
	}
}

// TestMisdirected: a name with an authority of its own is closed to who
// connected to another.
func TestMisdirected(t *testing.T) {
	ca, m := testcert.New(t, testcert.Cert{Name: "ca", CA: true}), testcert.New(t, testcert.Cert{Name: "m"})
	f := files(map[string]*testcert.Made{"main": m, "vault": m, "open": m})
	f["/c/ca.crt"] = ca.Cert
	p := pair("main", "")
	s, ps := New(&vassal.App{Listen: []vassal.Listener{{Protocol: vassal.HTTPS, TLS: &p}}, CertFiles: f,
		TLS: &vassal.TLS{Names: []vassal.ServerName{{Name: "vault", KeyPair: pair("vault", "/c/ca.crt")}, {Name: "open", KeyPair: pair("open", "")}}}})
	if len(ps) > 0 {
		t.Fatal(ps)
	}
	for _, c := range []struct {
		sni, host string
		want      bool
	}{{"", "main", false}, {"open", "main", false}, {"", "vault", true}, {"open", "vault", true}, {"vault", "vault", false}, {"vault", "open", false}} {
		if got := s.Misdirected(0, c.sni, c.host); got != c.want {
			t.Errorf("%+v: %t", c, got)
		}
	}
}

// TestNoTicketsForClients: a session of one name, resumed at another, would
// carry a client past that one's authority.
func TestNoTicketsForClients(t *testing.T) {
	ca, m := testcert.New(t, testcert.Cert{Name: "ca", CA: true}), testcert.New(t, testcert.Cert{Name: "m"})
	f := files(map[string]*testcert.Made{"main": m})
	f["/c/ca.crt"] = ca.Cert
	p := pair("main", "/c/ca.crt")
	s, _ := New(&vassal.App{Listen: []vassal.Listener{{Protocol: vassal.HTTPS, TLS: &p}}, CertFiles: f})
	conf, err := s.Listener(0).GetConfigForClient(&tls.ClientHelloInfo{})
	if err != nil || !conf.SessionTicketsDisabled {
		t.Error(err, "tickets are given")
	}
}
