package policy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"liege/vassal"
)

// ModuleName is the name of an application's module.
func ModuleName(id string) string { return "webapp_" + id }

// Domain is the type that an application's processes run in.
func Domain(id string) string { return "webapp_" + id + "_t" }

var legalID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// taken are the ends of an application's types: webapp_shop_log_t is a file type
// of shop, and so cannot be the domain of an application shop_log.
var taken = []string{"content", "rw", "log", "tmp", "run", "config", "port"}

// CheckID returns an error if no module can have this name. A name is used as
// it is: were dots mapped to underscores, a.b and a_b would be one domain.
func CheckID(id string) error {
	if p := checkID(id); p != nil {
		return p
	}
	return nil
}

func checkID(id string) *vassal.Problem {
	bad := func(why, hint string) *vassal.Problem {
		return &vassal.Problem{Severity: vassal.Error, Code: vassal.CodeBadPolicy, Message: fmt.Sprintf("ID %q: %s", id, why), Hint: hint}
	}
	if !legalID.MatchString(id) {
		hint := "1 to 200 letters, digits, _ and -"
		if s := legal(id); legalID.MatchString(s) && !typeName(s) {
			hint = fmt.Sprintf("take %s, and in the vassal: selinux-context = system_u:system_r:%s:s0", s, Domain(s))
		}
		return bad("a type's name has letters, digits, _ and - only", hint)
	}
	if typeName(id) {
		return bad(fmt.Sprintf("%s is how a file type is called", Domain(id)), "take "+id+"app")
	}
	return nil
}

// typeName reports whether an application's domain would be called as a type of
// another.
func typeName(id string) bool {
	return slices.ContainsFunc(taken, func(t string) bool { return id == t || strings.HasSuffix(id, "_"+t) })
}

// legal is the name with dots as underscores, and without what no type's name
// has.
func legal(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '.':
			return '_'
		case r > 0x7e || !legalID.MatchString(string(r)):
			return -1
		}
		return r
	}, name)
}
