package inifile

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"liege/vassal"
)

// sending handles how files are sent: static-expires*, static-gzip* and what
// else names no directory.
func (d *decoder) sending(v value) bool {
	s := &d.cfg.App.Static
	name, mtime := strings.CutSuffix(v.opt.Name, "-mtime")
	switch name {
	case "static-expires":
		d.expires(v, vassal.ByFile, mtime)
	case "static-expires-uri":
		d.expires(v, vassal.ByURI, mtime)
	case "static-expires-path-info":
		d.expires(v, vassal.ByPath, mtime)
	case "static-expires-type":
		d.expires(v, vassal.ByType, mtime)
	case "static-gzip":
		if d.sendingRegexp(v, v.Value) {
			s.Gzip.Match = append(s.Gzip.Match, v.Value)
		}
	case "static-gzip-all":
		s.Gzip.All = v.on
	case "static-gzip-dir":
		s.Gzip.Dirs = append(s.Gzip.Dirs, v.Value)
	case "static-gzip-ext":
		s.Gzip.Exts = append(s.Gzip.Exts, v.Value)
	case "check-static-docroot":
		s.Docroot = v.on
	case "static-dot-files":
		s.DotFiles = v.on
	default:
		return false
	}
	return true
}

// expires reads "regexp seconds", split at the first space as in uWSGI, or
// "type=seconds".
func (d *decoder) expires(v value, by vassal.ExpiresBy, mtime bool) {
	sep, example := " ", `^/assets/ 86400`
	if by == vassal.ByType {
		sep, example = "=", "image/png=86400"
	}
	match, seconds, ok := strings.Cut(v.Value, sep)
	seconds = strings.TrimSpace(seconds)
	n, err := strconv.ParseInt(firstWord(seconds), 10, 64)
	if !ok || match == "" || err != nil || n < 0 {
		d.err(vassal.CodeBadValue, v.Setting, fmt.Sprintf("%q does not say what expires after how many seconds", clip(v.Value)), v.opt.Name+" = "+example)
		return
	}
	if word := firstWord(seconds); word != seconds && !strings.ContainsAny(seconds, "#;") {
		d.trailing(v.Setting, match+sep+word)
	}
	if by != vassal.ByType && !d.sendingRegexp(v, match) {
		return
	}
	s := &d.cfg.App.Static
	s.Expires = append(s.Expires, vassal.StaticExpires{By: by, Match: match, Seconds: n, Mtime: mtime, At: v.Origin})
}

// sendingRegexp checks a regular expression. Ours are matched in linear time
// (golang.org/s/re2syntax), since a file's owner writes them and a client what
// they are matched with; of PCRE that has all but what needs to go back:
// references to groups, and assertions about what is around.
func (d *decoder) sendingRegexp(v value, re string) bool {
	_, err := regexp.Compile(re)
	if err == nil {
		return true
	}
	d.err(vassal.CodeBadValue, v.Setting, strings.TrimPrefix(err.Error(), "error parsing regexp: "), "references (\\1) and assertions (?=…) are not there; write what is meant without them")
	return false
}
