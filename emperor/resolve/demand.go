package resolve

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"path"
	"strings"
	"time"

	"liege/vassal"
	"liege/vassal/inifile"
)

// What a program of emperor-on-demand-exec may take, and say.
const (
	demandTime = 5 * time.Second
	demandText = 4 << 10
)

// demand finds the socket that wakes the vassal whose file is src, as uWSGI's
// Emperor does: the first of extension, directory and exec that emperor.ini has
// counts. Nil: there is none, and the vassal is an ordinary one.
func (s *Settings) demand(ctx context.Context, name vassal.Name, src inifile.Source) (*inifile.OnDemand, error) {
	d := s.OnDemand
	var text []byte
	out := &inifile.OnDemand{Key: d.Key, Origin: d.At}
	switch d.Key {
	case inifile.OnDemandExtension:
		file := src.Path + d.Value
		h, err := s.INI.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err == nil && src.Trust.Operator && !h.Operator {
			err = fmt.Errorf("%s: others than root can write it", file)
		}
		if err != nil {
			return nil, err
		}
		text, out.Origin = h.Data, vassal.Origin{File: file, Line: 1}
	case inifile.OnDemandDirectory:
		text = []byte(path.Join(d.Value, string(name)+".socket"))
	case inifile.OnDemandExec:
		if !s.Runs {
			return nil, nil
		}
		var err error
		if text, err = askProgram(ctx, append(strings.Fields(d.Value), string(name)+".ini")); err != nil {
			return nil, err
		}
	default:
		return nil, nil
	}
	if i := bytes.IndexFunc(text, func(r rune) bool { return r < ' ' }); i >= 0 {
		text = text[:i]
	}
	if out.Address = string(text); out.Address == "" {
		return nil, nil
	}
	return out, nil
}

// askProgram runs a program of the operator's. There is no shell: the name of a
// file is one word, whatever it holds (a vassal's name holds nothing that
// matters, and does not begin with a dash).
func askProgram(ctx context.Context, argv []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, demandTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env, cmd.Dir = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, "/"
	cmd.WaitDelay = time.Second // what it left behind may hold its output
	out, err := cmd.Output()
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%s did not answer in %v", argv[0], demandTime)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", argv[0], err)
	case len(out) > demandText:
		return nil, fmt.Errorf("%s said more than %d bytes", argv[0], demandText)
	}
	return out, nil
}
