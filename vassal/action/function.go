package action

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A Function is one of a C library that call, callret, callint and callintret
// reach by its name. None of them is called: the action is done that does the
// same, and no library is loaded.
type Function struct {
	Name string
	Arg  string // its argument
	Kind Kind
	Int  bool // it takes a number: callint and callintret
}

// ErrSymbol is about a function that nothing is done for.
var ErrSymbol = errors.New("symbols of libraries are not called")

// Functions are all that there are.
func Functions() []Function {
	return []Function{
		{"chdir", "DIR", Cd, false},
		{"mkdir", "DIR", Mkdir, false},
		{"rmdir", "DIR", Rmdir, false},
		{"unlink", "FILE", Unlink, false},
		{"remove", "FILE", Unlink, false},
		{"creat", "FILE", Create, false},
		{"umount", "WHERE", Umount, false},
		{"sethostname", "NAME", Hostname, false},
		{"putenv", "NAME=VALUE", Putenv, false},
		{"setenv", "NAME VALUE", Putenv, false},
		{"puts", "TEXT", Print, false},
		{"system", "COMMAND", Exec, false},
		{"setcon", "CONTEXT", Setcon, false},
		{"umask", "MASK", Umask, true},
		{"exit", "CODE", Exit, true},
		{"_exit", "CODE", Exit, true},
	}
}

// called reports whether action calls a function.
func called(action string) bool {
	return slices.Contains([]string{"call", "callret", "callint", "callintret"}, action)
}

// function returns the action, and its argument, that does what a call asks
// for.
func function(action, arg string) (name, rest string, err error) {
	symbol, rest, _ := strings.Cut(strings.TrimLeft(arg, " \t"), " ")
	i := slices.IndexFunc(Functions(), func(f Function) bool { return f.Name == symbol })
	if i < 0 {
		return "", "", fmt.Errorf("%s:%s: %w; those that something is done for are %s", action, clip(symbol), ErrSymbol, functionList())
	}
	f := Functions()[i]
	if ints := strings.HasPrefix(action, "callint"); ints != f.Int {
		want := map[bool]string{true: "callint", false: "call"}[f.Int]
		return "", "", fmt.Errorf("%s takes another argument; want %s:%s %s", f.Name, want, f.Name, f.Arg)
	}
	switch f.Name {
	case "setcon":
		return string(Setcon), symbol + " " + rest, nil
	case "setenv":
		key, value, _ := strings.Cut(rest, " ")
		rest = key + "=" + value
	}
	return string(f.Kind), rest, nil
}

func functionList() string {
	var s []string
	for _, f := range Functions() {
		s = append(s, f.Name)
	}
	return strings.Join(s, " ")
}
