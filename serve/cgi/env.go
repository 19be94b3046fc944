package cgi

import (
	"net/url"
	"path"
	"strings"

	"liege/serve/exchange"
)

// software is SERVER_SOFTWARE.
const software = "liege"

// base takes over what every program has in its environment.
func (h *Handler) base(env []string) {
	for _, kv := range env {
		name, _, ok := strings.Cut(kv, "=")
		if !ok || h.unset[name] {
			continue
		}
		h.env = append(h.env, kv)
		h.fixed[name] = true
	}
}

// ownNames are set below, whatever the request says.
var ownNames = map[string]bool{"GATEWAY_INTERFACE": true, "SERVER_SOFTWARE": true, "SCRIPT_NAME": true, "SCRIPT_FILENAME": true, "PATH_INFO": true,
	"PATH_TRANSLATED": true}

// environ is the environment of s: RFC 3875 4.1, uWSGI's additions and all
// variables of the request.
func (h *Handler) environ(r *exchange.Request, s *script) []string {
	env := append(make([]string, 0, len(h.env)+len(r.Vars)+8), h.env...)
	add := func(name, value string) {
		if !h.unset[name] {
			env = append(env, name+"="+value)
		}
	}
	root, status := s.root, true
	for _, v := range r.Vars {
		if v.Name == "DOCUMENT_ROOT" && v.Value != "" {
			root = v.Value
		}
		status = status && v.Name != "REDIRECT_STATUS"
		if ownNames[v.Name] || h.fixed[v.Name] || !mayName(v.Name) || strings.IndexByte(v.Value, 0) >= 0 || v.Name == "DOCUMENT_ROOT" {
			continue
		}
		add(v.Name, v.Value)
	}
	add("GATEWAY_INTERFACE", "CGI/1.1")
	add("SERVER_SOFTWARE", software)
	add("SCRIPT_NAME", s.name)
	add("SCRIPT_FILENAME", s.path)
	add("DOCUMENT_ROOT", root)
	if status {
		add("REDIRECT_STATUS", "200") // php-cgi insists on it
	}
	if s.info != "" {
		add("PATH_INFO", s.info)
		add("PATH_TRANSLATED", path.Join("/", root, s.info))
	}
	return env
}

// orders are beginnings of names that a loader, a shell or an interpreter
// takes orders from. A request, which a peer of a uwsgi socket may fill in as
// it likes, says what is asked for, not what runs.
var orders = [...]string{"LD_", "DYLD_", "MALLOC_", "GLIBC_", "GCONV_", "LOCPATH", "NLSPATH", "RES_", "HOSTALIASES", "BASH", "PYTHON", "PERL", "RUBY", "GEM_",
	"BUNDLE_", "LUA_", "NODE_", "PHPRC", "PHP_INI", "PHP_ADMIN", "JAVA_", "JDK_", "_JAVA", "CLASSPATH", "TCL", "GUILE_", "AWK", "GIT_", "XDG_", "SSH_",
	"NOTIFY_", "LISTEN_", "WATCHDOG_", "GODEBUG", "GOTRACEBACK"}

// orderNames are whole names of the same kind.
var orderNames = map[string]bool{"ENV": true, "IFS": true, "PATH": true, "SHELL": true, "SHELLOPTS": true, "PS4": true, "CDPATH": true, "HOME": true,
	"TMPDIR": true, "PAGER": true, "EDITOR": true, "VISUAL": true, "BROWSER": true, "PROMPT_COMMAND": true, "TERMINFO": true, "PWD": true, "POSIXLY_CORRECT": true}

// mayName reports whether a variable of a request goes into an environment.
func mayName(name string) bool {
	if name == "" || orderNames[name] || strings.ContainsAny(name, "=\x00()") {
		return false
	}
	for _, p := range orders {
		if strings.HasPrefix(name, p) {
			return false
		}
	}
	return true
}

// arguments are those of an indexed query (RFC 3875 4.4): no "=" in it, words
// separated by "+". Characters that a shell would take for its own are
// escaped, as that section asks. A word that begins with "-" would be an
// option (CVE-2012-1823), and a query with one is no list of words.
func arguments(query string) []string {
	if query == "" || strings.IndexByte(query, '=') >= 0 {
		return nil
	}
	var out []string
	for word := range strings.SplitSeq(query, "+") {
		text, err := url.PathUnescape(word)
		if err != nil || strings.HasPrefix(text, "-") || strings.IndexByte(text, 0) >= 0 {
			return nil
		}
		out = append(out, escaped(text))
	}
	return out
}

const shellChars = "&;`'\"|*?~<>^()[]{}$\\\n"

func escaped(s string) string {
	if !strings.ContainsAny(s, shellChars) {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		if strings.IndexByte(shellChars, s[i]) >= 0 {
			b.WriteByte('\\')
		}
		b.WriteByte(s[i])
	}
	return b.String()
}
