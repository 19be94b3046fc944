package route

import (
	"fmt"
	"strconv"
	"strings"

	"liege/vassal"
)

// Keys of the actions and the condition about caches.
const (
	CacheKeys   = "key name content_type content_encoding mime no_offload no_content_length no_cl nocl"
	StoreKeys   = "key gzip name value status code expires"
	CacheSet    = "key value name expires"
	CacheVar    = "key var name num"
	CacheMath   = "key value name expires"
	InCacheKeys = "key name"
)

// keyed checks the argument of an action about a cache: known are its keys,
// needs those that must be there.
func keyed(known string, needs ...string) func(string, bool) error {
	return func(arg string, captures bool) error {
		kv, err := Keyvals(arg, known)
		if err != nil {
			return err
		}
		for _, k := range needs {
			if kv[k] == "" {
				return fmt.Errorf("needs %s=", k)
			}
		}
		if strings.Contains(kv["name"], "@") {
			return fmt.Errorf("name=%.40s: caches of other instances are not asked", kv["name"])
		}
		for _, k := range []string{"expires", "status", "code"} {
			if n := kv[k]; n != "" {
				if _, err := strconv.ParseUint(n, 10, 31); err != nil {
					return fmt.Errorf("%s=%.40s is not a number", k, n)
				}
			}
		}
		return templates(captures, kv["key"], kv["gzip"], kv["value"], kv["name"])
	}
}

// CacheNames are the caches that a rule names, "" for the first: not those that
// are only known when a request is there, nor what is no name.
func CacheNames(r *vassal.Rule) []string {
	var out []string
	if r.Condition == "incache" {
		out = cacheName(out, r.Arg)
	}
	if strings.HasPrefix(r.Action, "cache") {
		out = cacheName(out, r.ActionArg)
	}
	return out
}

func cacheName(names []string, arg string) []string {
	name := ""
	for item := range strings.SplitSeq(arg, ",") {
		if n, ok := strings.CutPrefix(item, "name="); ok {
			name = n
		}
	}
	if strings.ContainsAny(name, "$@") {
		return names
	}
	return append(names, name)
}
