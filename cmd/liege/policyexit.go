package main

import (
	"context"
	"errors"
	"io/fs"

	"liege/vassal"
)

// policyError gives an error of package policy its exit code: a module, or the
// lack of a policy, is configuration; what happened while it was changed is not.
func policyError(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*exit](err); ok {
		return err
	}
	e := &exit{code: exitConfig, problems: vassal.AsProblems(err, "", vassal.CodeBadPolicy)}
	_, one := errors.AsType[*vassal.Problem](err)
	_, many := errors.AsType[vassal.Problems](err)
	switch {
	case errors.Is(err, fs.ErrPermission):
		e.code = exitDenied
	case errors.Is(err, fs.ErrNotExist):
		e.code = exitNone
	case errors.Is(err, context.Canceled) || !one && !many:
		e.code = exitFailed
	}
	for _, p := range e.problems {
		switch p.Code {
		case vassal.CodePolicyBusy, vassal.CodeModuleInUse, vassal.CodeNotInstalled, vassal.CodeNotUndone:
			e.code = exitFailed
		case vassal.CodeNoModule:
			e.code = exitNone
		}
	}
	return e
}
