package e2e

import (
	"os"
	"strings"
	"testing"

	"liege/emperor/control"
	"liege/internal/testenv"
)

// TestStartHints: whatever language an application is in, liege status says
// why it does not start, where, and what to do, in the words of the real
// interpreters.
func TestStartHints(t *testing.T) {
	testenv.Need(t, testenv.Ruby, testenv.Node, testenv.PHP)
	r := newRealm(t)
	r.write("app/secret", "outside what the others see")
	const ruby, perl = "plugins = rack\nrack = config.ru\n", "plugins = psgi\npsgi = app.psgi\n"
	cases := []struct {
		name, lines string
		file, text  string   // the application
		want        []string // of what liege status says
	}{
		{"pysyntax", "wsgi-file = app.py\n", "app.py", "import os\ndef application(:\n    pass\n", []string{"DIR/app.py:2: SyntaxError", "-m py_compile DIR/app.py"}},
		{"pyindent", "wsgi-file = app.py\n", "app.py", "def application(e, s):\npass\n", []string{"DIR/app.py:2: IndentationError", "mend DIR/app.py, line 2"}},
		{"pymodule", "wsgi-file = app.py\n", "app.py", "import flask_nowhere\n", []string{"No module named 'flask_nowhere'", "virtualenv ="}},
		{"pyraise", "wsgi-file = app.py\n", "app.py", "open('REALM/app/secret')\n", []string{"FileNotFoundError", "DIR/app.py:1", "bind = REALM/app/secret:ro", "what it printed last"}},
		{"rbsyntax", ruby, "config.ru", "run lambda { |e|\n  [200, {}, [}\n", []string{"config.ru:2", "ruby -c DIR/config.ru"}},
		{"rbload", ruby, "config.ru", "require 'sinatra_nowhere'\n", []string{"cannot load such file -- sinatra_nowhere", "DIR/config.ru:1", "gem install sinatra_nowhere"}},
		{"rbgem", ruby, "config.ru", "gem 'rack', '< 0.1'\n", []string{"rack", "Gem"}},
		{"rbraise", ruby, "config.ru", "File.read('REALM/app/secret')\n", []string{"Errno::ENOENT", "DIR/config.ru:1", "bind = REALM/app/secret:ro"}},
		{"plsyntax", perl, "app.psgi", "my $x = ;\nsub { }\n", []string{"syntax error at DIR/app.psgi line 1", "perl -c DIR/app.psgi"}},
		{"plstrict", perl, "app.psgi", "use strict;\n$x = 1;\nsub { }\n", []string{"Global symbol", "DIR/app.psgi line 2", "perl -c DIR/app.psgi"}},
		{"plmodule", perl, "app.psgi", "use Dancer2::Nowhere;\nsub { }\n", []string{"Can't locate Dancer2/Nowhere.pm", "apt install libdancer2-nowhere-perl, or cpanm"}},
		{"pldie", perl, "app.psgi", "open my $f, '<', 'REALM/app/secret' or die \"REALM/app/secret: $!\";\n", []string{"No such file or directory at DIR/app.psgi line 1", "bind = REALM/app/secret:ro"}},
		{"execmodule", "exec = node server.js\n", "server.js", "require('express-nowhere')\n", []string{"exit status 1", "Error: Cannot find module 'express-nowhere'", "npm ci in DIR"}},
		{"execport", "exec = node server.js\nprocesses = 2\n", "server.js", "require('http').createServer().listen(8099, '127.0.0.1')\n", []string{"EADDRINUSE", "let it listen on $PORT"}},
		{"execlow", "exec = node server.js\n", "server.js", "require('http').createServer().listen(80, '127.0.0.1')\n", []string{"EACCES", "ports below 1024"}},
		{"execloader", "exec = ./server\n", "server", "not a program\n", []string{"exec format error", "without its first line #!"}},
		{"execnone", "exec = nosuch-server\n", "x", "", []string{"nosuch-server is not found in", "install it, or name it by its path"}},
	}
	r.write("php/index.php", "<?php ldap_liege();\n")
	r.drop("php", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/php\nplugins = php\nphp-docroot = DIR/php\nphp-index = index.php\n")
	fill := func(name, text string) string {
		return strings.NewReplacer("REALM", r.dir, "DIR", r.dir+"/"+name).Replace(text)
	}
	for _, c := range cases {
		r.write(c.name+"/"+c.file, fill(c.name, c.text))
		r.drop(c.name, fill(c.name, "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR\nready-timeout = 60\nbackoff-min = 60\n"+c.lines))
	}
	if err := os.Chmod(r.dir+"/execloader/server", 0o755); err != nil {
		t.Fatal(err)
	}
	if code, _ := r.get(r.up("php").Listen[0], "/"); code != 500 {
		t.Errorf("php: %d", code)
	}
	r.until("what its log says", func() bool {
		out, _ := r.try("status", "php")
		return strings.Contains(out, "apt install php-ldap, which has that extension; then liege reload")
	})
	for _, c := range cases {
		r.until(c.name+" has failed", func() bool {
			if _, code := r.try("status", c.name); code != 0 {
				return false
			}
			v := r.status(c.name)
			return (v.State == control.Backoff || v.State == control.Failed) && v.Error != nil
		})
		out, _ := r.try("status", c.name)
		for _, want := range c.want {
			if want = fill(c.name, want); !strings.Contains(out, want) {
				t.Errorf("%s: %q is not in\n%s", c.name, want, out)
			}
		}
	}
}
