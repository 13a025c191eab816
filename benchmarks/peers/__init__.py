"""Our service beside other model servers: same model, same JPEG, in alternation."""
