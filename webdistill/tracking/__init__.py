"""How MLflow is told what ran: no stage imports this, so a change here recomputes nothing."""
