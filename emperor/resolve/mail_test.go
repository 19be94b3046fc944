package resolve

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"liege/vassal"
	"liege/vassal/mail"
)

func TestMail(t *testing.T) {
	const smtp, sock = "127.0.0.1:10025", "unix:/run/smtp"
	to := func(addr string, tenant bool) vassal.Connection {
		return vassal.Connection{Address: addr, Key: "sendmail", At: vassal.Origin{Line: 7}, Tenant: tenant}
	}
	connect := func(addr string) vassal.Connection {
		return vassal.Connection{Address: addr, Key: "connect", At: vassal.Origin{Line: 3}}
	}
	caps := mail.Caps{Senders: []string{"*@%U.example"}, Rate: mail.Rate{N: 1, Per: time.Hour}}
	for _, tc := range []struct {
		name    string
		net     string
		server  vassal.Connection
		known   []string // of other sendmail lines
		connect []vassal.Connection
		ceiling []string
		caps    mail.Caps
		binds   []Bind
		caller  bool
		reaches []string
		doors   []string
		says    string
	}{
		{name: "none"},
		{name: "none, and caps", caps: caps, known: []string{smtp, sock}, connect: []vassal.Connection{connect(smtp), connect(sock), connect("127.0.0.1:5432"), connect("[::1]:25")},
			reaches: []string{smtp, sock, "127.0.0.1:5432", "[::1]:25"}, doors: []string{smtp, sock, "[::1]:25"}},
		{name: "no caps", connect: []vassal.Connection{connect("[::1]:25")}, server: to(smtp, false), reaches: []string{"[::1]:25", smtp}, doors: []string{smtp}},
		{name: "named twice", connect: []vassal.Connection{connect(smtp)}, server: to(smtp, false), reaches: []string{smtp}},
		{name: "named twice, and caps", caps: caps, connect: []vassal.Connection{connect(smtp)}, server: to(smtp, false), reaches: []string{smtp}, doors: []string{smtp}},
		{name: "unix", server: to(sock, false)},
		{name: "control.sock", server: to("unix:/run/liege/control.sock", false), says: "error bad-value 7"},
		{name: "a tenant's", server: to(smtp, true), says: "error over-ceiling 7"},
		{name: "a tenant's within", server: to(smtp, true), ceiling: []string{"127.0.0.1:1-65535"}, reaches: []string{smtp}, doors: []string{smtp}},
		{name: "visible", server: to(sock, false), binds: []Bind{{Target: "/run", Dir: true}}},
		{name: "visible, and caps", caps: caps, server: to(sock, false), binds: []Bind{{Target: "/run", Dir: true}}, says: "error over-ceiling 7"},
		{name: "host", net: "host", server: to(smtp, false)},
		{name: "host, and caps", net: "host", caps: caps, server: to(smtp, false), says: "warning not-reachable 7"},
		{name: "serve", caller: true, caps: caps, server: to(smtp, false), says: "note done-otherwise 7"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := &resolver{res: &Result{Net: "none", Binds: tc.binds, User: "alice"}, host: Host{Connect: tc.ceiling, Mail: tc.caps},
				cfg: vassal.Config{File: "v.ini", Jail: vassal.Jail{Connect: tc.connect, Sendmail: tc.server, Mailers: tc.known}}}
			if tc.server.Address != "" {
				r.cfg.Jail.Mailers = append(r.cfg.Jail.Mailers, tc.server.Address)
			}
			if tc.net != "" {
				r.res.Net = tc.net
			}
			if tc.caller {
				r.host.Caller = &Caller{}
			}
			r.connections()
			m := r.res.Mail
			if got := r.res.Reaches(); !slices.Equal(got, tc.reaches) {
				t.Errorf("it reaches %q, want %q", got, tc.reaches)
			}
			if !slices.Equal(m.Doors, tc.doors) {
				t.Errorf("doors %q, want %q", m.Doors, tc.doors)
			}
			if len(tc.caps.Senders) > 0 && !tc.caller && (!m.Caps.May("x@alice.example") || m.Caps.May("x@u.example") || m.Caps.Rate != caps.Rate) {
				t.Errorf("caps %+v", m.Caps)
			}
			var says []string
			for _, p := range r.res.Problems {
				says = append(says, string(p.Severity)+" "+p.Code+" "+string(rune('0'+p.Line)))
			}
			if strings.Join(says, ",") != tc.says {
				t.Errorf("%v, want %q", r.res.Problems, tc.says)
			}
		})
	}
}

// mapFS is a file system of a map.
type mapFS struct {
	FS
	files fstest.MapFS
}

func (m mapFS) ReadFile(p string) ([]byte, error) {
	return m.files.ReadFile(strings.TrimPrefix(p, "/"))
}

func TestMailName(t *testing.T) {
	name := func(text string) string {
		return mailName(mapFS{files: fstest.MapFS{"etc/mailname": {Data: []byte(text)}}})
	}
	if got := name("web1.example\n"); got != "web1.example" {
		t.Error(got)
	}
	none := mailName(mapFS{files: fstest.MapFS{}})
	for _, text := range []string{"", "a@b\n", "\n"} {
		if got := name(text); got != none {
			t.Errorf("%q: %q", text, got)
		}
	}
}
