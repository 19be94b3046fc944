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
