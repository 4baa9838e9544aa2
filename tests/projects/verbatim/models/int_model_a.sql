{{ config(materialized='table') }}
select {{ var('simulation_year') | int }} as simulation_year
