package inifile

import (
	"fmt"
	"strings"
	"testing"
)

// saidOf is all that is said of lines, "severity key: message" each.
func saidOf(lines string) string {
	var b strings.Builder
	_, ps := decodeText(lines)
	for _, p := range ps {
		fmt.Fprintf(&b, "%s %s: %s\n", p.Severity, p.Key, p.Message)
	}
	return b.String()
}

// sayEach checks that what is said of each file, or nothing, is what is wanted.
func sayEach(t *testing.T, files map[string]string) {
	t.Helper()
	for lines, want := range files {
		if got := saidOf(lines); got != "" && want == "" || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", lines, got, want)
		}
	}
}

// TestOwnModifier: the number of the app's language is what uWSGI's users
// write, and needs no word; that of another language cannot be served.
func TestOwnModifier(t *testing.T) {
	sayEach(t, map[string]string{
		"rack = config.ru\nhttp-socket-modifier1 = 7\n":   "",
		"http-socket-modifier1 = 5\npsgi = app.psgi\n":    "",
		"psgi = app.psgi\nroute = ^/ setmodifier1:5\n":    "",
		"rack = config.ru\nroute = ^/ uwsgi:,7,0\n":       "",
		"wsgi-file = app.py\nhttp-socket-modifier1 = 7\n": "warning http-socket-modifier1: modifier 7 is not served here",
		"wsgi-file = app.py\nhttp-socket-modifier1 = 8\n": "modifier 8 is not served here",
		"psgi = app.psgi\nroute = ^/ setmodifier1:7\n":    "asks for a Ruby app",
		"wsgi-file = app.py\nroute = ^/ uwsgi:,5,0\n":     "asks for a Perl app",
		"wsgi-file = app.py\nroute = ^/ uwsgi:,9,0\n":     "asks for CGI",
		"wsgi-file = app.py\nroute = ^/ setmodifier1:6\n": "a rule can choose 0",
	})
}

// TestOwnFields: uWSGI sends what add-header says. An answer is right without a
// line about a field that says where it ends, so the site serves.
func TestOwnFields(t *testing.T) {
	const app = "wsgi-file = app.py\n"
	sayEach(t, map[string]string{
		app + "add-header = Connection: close\n":               "",
		app + "add-header = connection:Close\n":                "",
		app + "route = ^/ addheader:Connection: close\n":       "",
		app + "add-header = Connection: Keep-Alive\n":          "warning add-header: Connection is the server's own",
		app + "add-header = Content-Length: 5\n":               "warning add-header: Content-Length is",
		app + "add-header = Transfer-Encoding: chunked\n":      "warning add-header: Transfer-Encoding is",
		app + "rem-header = Content-Length\n":                  "warning rem-header: Content-Length is",
		app + "rem-header = Connection\n":                      "warning rem-header: Connection is",
		app + "route = ^/ addheader:Content-Length: 5\n":       "warning route: addheader: Content-Length is",
		app + "route = ^/ delheader:Transfer-Encoding\n":       "warning route: delheader: Transfer-Encoding is",
		app + "add-header = Server: x\nadd-header = Date: y\n": "",
		app + "add-header = Bad Name: x\n":                     "warning add-header:",
		app + "add-header = foo\n":                             "warning add-header:",
	})
	cfg, _ := decodeText(app + "add-header = Connection: keep-alive\nadd-header = Connection: close\nadd-header = Content-Length: 1\nrem-header = Connection\n")
	if r := cfg.App.Routing; len(r.Add) != 1 || r.Add[0].Value != "close" || len(r.Remove) != 0 {
		t.Errorf("got %+v", r)
	}
}
