package inifile

import (
	"fmt"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
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

// TestNumbers: what uWSGI starts with does not end the start.
func TestNumbers(t *testing.T) {
	const app = "wsgi-file = app.py\n"
	sayEach(t, map[string]string{
		app + "threads = 0\n":                           "",
		app + "cheaper = 0\nlisten = 0\nharakiri = 0\n": "",
		app + "max-requests = 0\nreload-mercy = 0\n":    "",
		app + "buffer-size = 70000\nalarm-freq = 0\n":   "",
		app + "processes = 3\ncheaper = 1\ncheaper-step = 0\ncheaper-overload = 0\ncheaper-initial = 9\n": "",
		app + "websockets-max-size = 0\nmule-msg-size = 0\n":                                              "",
		app + "master = 1\ndie-on-term = yes\nvacuum = on\n":                                              "",
		app + "threads = 5000\n":                       "warning threads: 5000 is more than there can be: it is 4096",
		app + "gevent = 1024\n":                        "warning gevent: 1024 is more than there can be: it is 250",
		app + "async = 2000\n":                         "warning async: 2000 is more than there can be: it is 250",
		app + "buffer-size = 5000000\n":                "warning buffer-size:",
		app + "cheaper = true\n":                       "warning cheaper: \"true\" is not a number, and counts as 0",
		app + "threads = auto\n":                       "warning threads: \"auto\" is not a number",
		app + "harakiri = none\n":                      "warning harakiri:",
		app + "threads = $(NONE)x\n":                   "error threads:",
		app + "processes = auto\n":                     "error processes: 0: nobody would answer",
		app + "processes = 0\n":                        "error processes: 0: nobody would answer",
		app + "processes = 5000\n":                     "error processes:",
		app + "processes = 2\ncheaper = 2\n":           "error cheaper:",
		app + "memory-max = none\n":                    "error memory-max:",
		app + "harakiri = -5\n":                        "error harakiri:",
		app + "chmod-socket = 0o660\n":                 "error chmod-socket: \"0o660\" is not an octal mode",
		app + "chmod-socket = 660 # all\n":             "warning chmod-socket: 660 counts",
		app + "env = =b\n":                             "warning env: no name before the equals sign",
		app + "cache2 = name=a,items=10,expires=500\n": "warning cache2: \"expires=500\" is no part of a cache",
		app + "cache2 = nome=a,items=10\n":             "error cache2: the cache has no name",
		app + "cache2 = node=127.0.0.1:1,items=10\n":   "error cache2: the cache has no name",
		app + "cache2 = name=a,itms=10\n":              "error cache2: does not say how many items",
		app + "cache2 = name=a,items=0\n":              "error cache2: items=0",
	})
	cfg, _ := decodeText(app + "threads = 0\ngevent = 1024\ncheaper-step = 0\nprocesses = 2\ncheaper = on\n")
	if w := cfg.App.Workers; w.Threads != 1 || w.Async != 250 || w.Cheaper.Least != 0 || w.Processes != 2 {
		t.Errorf("got %+v", w)
	}
}

// TestVhost: where the file names one app, uWSGI serves it for every host name.
func TestVhost(t *testing.T) {
	const app = "module = a.wsgi\n"
	sayEach(t, map[string]string{
		app + "vhost = true\n":                         "note vhost: the app that the file names answers for every host name",
		"vhost = true\n" + app:                         "note vhost:",
		"vhost-host = true\npsgi = a.psgi\n":           "note vhost-host:",
		app + "vhost = false\n":                        "",
		"vhost = true\n":                               "error vhost:",
		app + "vhost = true\nno-default-app = true\n":  "error vhost:",
		app + "vhost = true\nno-default-app = false\n": "note vhost:",
		app + "vhost = true\nmount = /a=a.py\n":        "error vhost:",
		"mount = a.example.com=a.py\nvhost = true\n":   "error vhost:",
		app + "symcall-use-next = true\n":              "error symcall-use-next:",
		app + "symcall-use-next = off\n":               "",
	})
}

// TestNoApp: what works besides requests is a vassal, whatever listens.
func TestNoApp(t *testing.T) {
	const daemon, cron = "attach-daemon = sleep 9\n", "cron = -1 -1 -1 -1 -1 true\n"
	sayEach(t, map[string]string{
		daemon:                            "warning http-socket: no line names an app or static files: every request is answered with 404",
		cron:                              "warning http-socket: no line names an app",
		daemon + "socket = /run/a.sock\n": "404 (also socket, line 4)",
		daemon + "processes = 0\ncheck-static=/srv/a\n": "error processes:",
		"stats = :9191\n":                       "error http-socket: nothing to run",
		"mule = x.py\n":                         "warning http-socket: no line names an app",
		"mule = x.py\nphp-docroot = /srv/a\n":   "warning mule: mules and spoolers run Python apps only",
		"mule = x.py\npsgi = /srv/a/app.psgi\n": "warning mule: mules and spoolers",
		"spooler = s\ncgi = /srv/a\n":           "warning spooler: mules and spoolers",
		"mule = x.py\ncheck-static = /srv/a\n":  "",
	})
	for lines, want := range map[string]string{
		daemon + "stats = :9191\n": "",
		daemon + "processes = 0\n": "",
		cron + "stats = :9191\n":   "",
		cron:                       "",
		"stats = :9191\n":          "nothing to run",
		"mule = x.py\n":            "",
		"mule = false\n":           "nothing to run",
		"spooler = s\nimport=a\n":  "",
		"spooler-external = s\n":   "nothing to run",
	} {
		_, ps := chain(&txtar.Archive{Files: []txtar.File{{Name: "/etc/vassals/shop.ini", Data: []byte("[uwsgi]\nuid = 1\n" + lines)}}})
		if got := ps.Error(); len(ps) > 0 != (want != "") || !strings.Contains(got, want) {
			t.Errorf("%s: got %q, want %q", lines, got, want)
		}
	}
}
