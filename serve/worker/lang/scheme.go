package lang

import (
	"strings"

	"liege/serve/exchange"
)

// Scheme finds a request's scheme as uWSGI does: UWSGI_SCHEME, then
// X-Forwarded-Proto, else "https" if HTTPS or X-Forwarded-SSL say on or 1.
type Scheme struct {
	named, forwarded string
	on               bool
}

// See looks at one of the request's variables.
func (s *Scheme) See(v *exchange.Var) {
	switch v.Name {
	case "UWSGI_SCHEME":
		s.named = v.Value
	case "HTTP_X_FORWARDED_PROTO":
		s.forwarded = v.Value
	case "HTTPS", "HTTP_X_FORWARDED_SSL":
		s.on = s.on || v.Value == "1" || len(v.Value) >= 2 && strings.EqualFold(v.Value[:2], "on")
	}
}

// String is "http" or "https": anything else a client may write there is not a
// scheme of ours.
func (s *Scheme) String() string {
	for _, v := range []string{s.named, s.forwarded} {
		if v == "http" || v == "https" {
			return v
		}
	}
	if s.on {
		return "https"
	}
	return "http"
}

// Wanted reports whether a variable is in the env of Rack and PSGI: of the
// empty ones only those that they require, as in uWSGI.
func Wanted(v *exchange.Var) bool {
	if v.Value != "" {
		return true
	}
	switch v.Name {
	case "REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "SERVER_NAME", "SERVER_PORT":
		return true
	}
	return false
}
