package launch

import "liege/emperor/pidfile"

// pidFile writes the host's pid of the generation to the file that the vassal
// names, or removes it again if the pid there still is this one (CONTRACT 11).
// What cannot be done is one line in the vassal's log.
func (in *instance) pidFile(write bool) {
	path := in.p.Config.Logs.PidFile
	if path == "" || in.p.Result == nil {
		return
	}
	path, mine := in.p.operators(path)
	f := pidfile.File{Path: path, Operators: mine, User: who(in.p.Result)}
	do := f.Remove
	if write {
		do = f.Write
	}
	if err := do(in.ctx, in.PID()); err != nil && in.log != nil {
		at := in.p.Config.Logs.PidFileAt
		in.log.Note("%s:%d: pidfile: %v", at.File, at.Line, err)
	}
}
