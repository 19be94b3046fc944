package php

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"liege/serve/exchange"
	"liege/serve/proxy"
	"liege/serve/worker"
	"liege/vassal"
)

// software is SERVER_SOFTWARE where php-server-software does not say.
const software = "liege"

// fixedParams are what every request has besides its own variables.
func fixedParams(p *vassal.PHP) [][2]string {
	out := [][2]string{{"GATEWAY_INTERFACE", "CGI/1.1"}, {"SERVER_SOFTWARE", software}, {"REDIRECT_STATUS", "200"}} // cgi.force_redirect insists on the last
	if p.Software != "" {
		out[1][1] = p.Software
	}
	for _, kv := range p.Vars {
		name, value, _ := strings.Cut(kv, "=")
		out = append(out, [2]string{name, value})
	}
	return out
}

// appendParams appends the variables of a request for s.
func (h *Handler) appendParams(b []byte, r *exchange.Request, s *script) []byte {
	for i := range r.Vars {
		v := &r.Vars[i]
		switch v.Name {
		case "SCRIPT_NAME", "SCRIPT_FILENAME", "PATH_INFO", "PATH_TRANSLATED", "DOCUMENT_ROOT", "QUERY_STRING", "GATEWAY_INTERFACE", "SERVER_SOFTWARE",
			"REDIRECT_STATUS", "HTTP_PROXY", "REDIRECT_URL":
			continue
		}
		if !h.fixed(v.Name) {
			b = proxy.AppendParam(b, v.Name, v.Value)
		}
	}
	translated := ""
	if s.info != "" {
		translated = s.path + s.info
	}
	for _, kv := range [...][2]string{{"SCRIPT_NAME", s.name}, {"SCRIPT_FILENAME", s.path}, {"PATH_INFO", s.info}, {"PATH_TRANSLATED", translated},
		{"DOCUMENT_ROOT", s.root}, {"QUERY_STRING", s.query}} {
		if !h.fixed(kv[0]) {
			b = proxy.AppendParam(b, kv[0], kv[1])
		}
	}
	for _, kv := range h.params {
		b = proxy.AppendParam(b, kv[0], kv[1])
	}
	return b
}

// fixed reports whether php-var sets the variable.
func (h *Handler) fixed(name string) bool {
	for i := range h.params {
		if h.params[i][0] == name {
			return true
		}
	}
	return false
}

// program is php-cgi with its socket.
func (h *Handler) program(int) (*worker.Program, error) {
	argv := []string{h.p.Program}
	if h.p.INI != "" {
		argv = append(argv, "-c", h.p.INI)
	}
	env := append(h.start.Environ(), "PHP_FCGI_CHILDREN="+strconv.Itoa(len(h.stats)), "PHP_FCGI_MAX_REQUESTS="+strconv.Itoa(h.p.MaxRequests),
		"PHP_INI_SCAN_DIR="+h.scan())
	return &worker.Program{Path: h.p.Program, Argv: argv, Env: env, Dir: h.cwd, Files: [3]*os.File{h.listen, h.null, os.Stderr}, Limits: h.p.Limits}, nil
}

// scan is where PHP looks for settings besides its php.ini: its own directory
// (the empty word), then ours.
func (h *Handler) scan() string {
	for _, kv := range h.start.Environ() {
		if own, ok := strings.CutPrefix(kv, "PHP_INI_SCAN_DIR="); ok {
			return own + ":" + h.dir + "/conf"
		}
	}
	return ":" + h.dir + "/conf"
}

// systemSessions is where Debian's PHP keeps sessions.
const systemSessions = "/var/lib/php/sessions"

// settings writes what the file says into PHP's language: php-ini-append
// files as they are, then php-set and the code of php-exec-before and -after.
func (h *Handler) settings() error {
	conf := filepath.Join(h.dir, "conf")
	if err := os.Mkdir(conf, 0o700); err != nil {
		return fmt.Errorf("settings of PHP: %w", err)
	}
	for i, p := range h.p.INIAppend {
		if err := os.Symlink(p, filepath.Join(conf, fmt.Sprintf("append-%03d.ini", i))); err != nil {
			return fmt.Errorf("php-ini-append: %w", err)
		}
	}
	var b bytes.Buffer
	set := map[string]string{}
	for _, kv := range h.p.Set {
		name, value, _ := strings.Cut(kv, "=")
		set[name] = value
		fmt.Fprintf(&b, "%s = %s\n", name, quote(name, value))
	}
	for _, x := range []struct {
		key  string
		code []string
	}{{"auto_prepend_file", h.p.Before}, {"auto_append_file", h.p.After}} {
		if len(x.code) == 0 {
			continue
		}
		file := filepath.Join(h.dir, x.key+".php")
		text := "<?php\n" + strings.Join(x.code, "\n") + "\n"
		if other := set[x.key]; other != "" { // both are wished
			text += "require '" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(other) + "';\n"
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return fmt.Errorf("code for PHP: %w", err)
		}
		fmt.Fprintf(&b, "%s = %s\n", x.key, quote(x.key, file))
	}
	if _, own := set["session.save_path"]; !own && unix.Access(systemSessions, unix.W_OK) != nil && !h.namesSessions() {
		b.WriteString("session.save_path = /tmp\n")
	}
	if h.p.DumpConfig {
		h.log.Info("php-dump-config", "php-ini", h.p.INI, "php-ini-append", strings.Join(h.p.INIAppend, " "), "settings", b.String())
	}
	if err := os.WriteFile(filepath.Join(conf, "liege.ini"), b.Bytes(), 0o600); err != nil {
		return fmt.Errorf("settings of PHP: %w", err)
	}
	return nil
}

var sessionLine = regexp.MustCompile(`(?m)^[ \t]*session\.save_path[ \t]*=`)

// namesSessions reports whether a file of php-ini or php-ini-append says where
// sessions are kept.
func (h *Handler) namesSessions() bool {
	for _, p := range append([]string{h.p.INI}, h.p.INIAppend...) {
		if b, err := os.ReadFile(p); p != "" && err == nil && sessionLine.Match(b) {
			return true
		}
	}
	return false
}

// constants is a value of PHP's own names, which is not quoted.
var constants = regexp.MustCompile(`^[A-Z_0-9 |&~^()]*E_[A-Z_0-9 |&~^()]*$`)

// quote writes a value so that PHP takes it as it is.
func quote(name, value string) string {
	if name == "error_reporting" && constants.MatchString(value) {
		return value
	}
	if !strings.ContainsAny(value, "'\n") {
		return "'" + value + "'"
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "$", `\$`, "\n", " ").Replace(value) + `"`
}

// problem says why PHP did not come up.
func (h *Handler) problem(_ int, how string, err error) *vassal.Problem {
	p := &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeExitedEarly, File: h.p.At.File, Line: h.p.At.Line, Step: "php"}
	switch {
	case how == "not started" && errors.Is(err, fs.ErrNotExist):
		p.Code, p.Message, p.Hint = vassal.CodeNoInterpreter, h.p.Program+": not found inside the sandbox", "apt install php-cgi"
	case how == "not started":
		p.Code, p.Message = vassal.CodeStartFailed, fmt.Sprintf("%s: %v", h.p.Program, err)
	case err != nil:
		p.Code, p.Message = vassal.CodeNotReady, fmt.Sprintf("%s: not ready after %v: %v", h.p.Program, h.p.StartTimeout, err)
	default:
		p.Message, p.Hint = fmt.Sprintf("%s: ended before it was ready: %s", h.p.Program, how), "what it printed is in the log; is it a php-cgi?"
	}
	return p
}
